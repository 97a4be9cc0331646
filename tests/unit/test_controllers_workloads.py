"""Each decision of the workloads' controllers by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netlab.controllers.deployment import limits
from netlab.controllers.revision import ALPHABET, Names, revision_of
from netlab.controllers.schedule import Scheduler
from netlab.controllers.state import PodState
from netlab.controllers.workloads import check, step
from netlab.errors import PlanError
from netlab.topology.pod import GRACE, DnsPolicy, Pod, Strategy, Workload, WorkloadKind
from tests.unit.workload_cluster import APP, Cluster, template, workload

DEPLOYMENT = workload(WorkloadKind.DEPLOYMENT)
STATEFUL_SET = workload(WorkloadKind.STATEFUL_SET)
DAEMON_SET = workload(WorkloadKind.DAEMON_SET)


def settled(declared: object, **options: object) -> Cluster:
    cluster = Cluster(declared, **options)  # type: ignore[arg-type]
    cluster.settle()
    cluster.created.clear()
    return cluster


def upgrade(cluster: Cluster, **changes: object) -> None:
    cluster.workloads = (replace(cluster.workloads[0], template=template(2), **changes),)  # type: ignore[arg-type]


# Names, nodes, shares


def test_a_revision_follows_from_the_template_alone() -> None:
    assert revision_of(template()) == revision_of(template()) != revision_of(template(2))
    assert len(revision_of(template())) == 10
    assert set(revision_of(template())) <= set(ALPHABET)
    assert revision_of(replace(template(), grace=GRACE)) == revision_of(template())  # as it is by default


@pytest.mark.parametrize("start", ["web", "w" * 63, "a." * 30, "w" * 46 + "-" * 10])
def test_generated_names_are_labels_and_never_in_use(start: str) -> None:
    names = Names([])
    found = [names.generate("default", start, "bcdfghjklm") for _ in range(200)]
    assert len(set(found)) == 200
    assert all(len(name) <= 63 and "." not in name and "--" not in name for name in found)
    assert all(name[:-6].endswith("-bcdfghjklm") for name in found)
    again = Names([("default", name) for name in found[1:]])
    assert again.generate("default", start, "bcdfghjklm") == found[0]
    assert again.generate("default", start, "bcdfghjklm") not in found


def test_the_scheduler_spreads_a_template_s_pods_then_a_workload_s_then_all() -> None:
    def pod(node: str, owner: str = "", revision: str = "") -> Pod:
        return Pod("x", node, owner=owner, revision=revision)

    scheduler = Scheduler(("n1", "n2", "n3"), [])
    assert scheduler.choose("o", "new") == "n1"
    scheduler.add(pod("n1"))
    assert scheduler.choose("o", "new") == "n2"
    scheduler.add(pod("n2", "o", "old"))
    assert scheduler.choose("o", "new") == "n3"
    scheduler.add(pod("n3", "o", "new"))
    assert scheduler.choose("o", "new") == "n1"
    scheduler.add(pod("n1", "o", "new"))
    for _ in range(5):
        scheduler.add(pod("n2"))
    assert scheduler.choose("o", "new") == "n2"
    scheduler.remove(pod("n1", "o", "new"))
    scheduler.add(pod("n2", "o", "new"))
    assert scheduler.choose("o", "new") == "n1"
    assert scheduler.choose("o", "new", node="n3") == "n3"
    assert scheduler.choose("o", "new", node="n9") is None
    assert Scheduler((), []).choose("o", "new") is None


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "found"),
    [
        (10, "25%", "25%", (3, 2)),
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (4, "0", "0", (0, 1)),
        (4, "0%", "10%", (0, 1)),
        (3, "2", "5", (2, 3)),
        (0, "25%", "25%", (0, 0)),
    ],
)
def test_surge_rounds_up_and_unavailable_down(
    replicas: int, surge: str, unavailable: str, found: tuple[int, int]
) -> None:
    assert limits(replace(DEPLOYMENT, replicas=replicas, max_surge=surge, max_unavailable=unavailable)) == found


# Deployments


def test_a_deployment_s_pods_carry_name_labels_owner_and_are_spread() -> None:
    cluster = Cluster(replace(DEPLOYMENT, template=replace(template(), hostname="h", subdomain="s")))
    pods = cluster.turn().create
    revision = revision_of(cluster.workloads[0].template)
    assert [pod.node for pod in pods] == ["n1", "n2", "n3"]
    assert {pod.labels for pod in pods} == {(*APP, ("pod-template-hash", revision))}
    assert all(pod.name.startswith(f"web-{revision}-") and len(pod.name) == len(revision) + 10 for pod in pods)
    assert {(pod.owner, pod.revision, pod.hostname, pod.subdomain) for pod in pods} == {
        ("Deployment default/web", revision, "h", "s")
    }
    assert cluster.turn().create == ()


@pytest.mark.parametrize("declared", [DEPLOYMENT, STATEFUL_SET, DAEMON_SET])
def test_a_pod_has_its_templates_network(declared: Workload) -> None:
    policy = DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET
    made = replace(template(), host_network=True, dns_policy=policy)
    pods = Cluster(replace(declared, template=made)).turn().create
    assert {(pod.host_network, pod.dns_policy) for pod in pods} == {(True, policy)}


def test_a_rolling_update_surges_first_and_goes_on_as_pods_get_ready() -> None:
    cluster = settled(replace(DEPLOYMENT, replicas=4, max_surge="1", max_unavailable="1"))
    upgrade(cluster)
    first = cluster.turn()
    assert (len(first.create), len(first.delete)) == (1, 1)  # 5 in all, 3 available
    second = cluster.turn()
    assert (len(second.create), len(second.delete)) == (1, 0)  # a pod that is ending leaves its place
    assert not any((again := cluster.turn()).create + again.delete)
    cluster.ready(cluster.created[0])
    third = cluster.turn()
    assert (len(third.create), len(third.delete)) == (0, 1)
    cluster.settle()
    assert cluster.revisions() == {revision_of(template(2))}
    assert len(cluster.alive) == 4


def test_unavailable_old_pods_go_first() -> None:
    cluster = settled(replace(DEPLOYMENT, replicas=4, max_surge="0", max_unavailable="1"))
    broken = cluster.names[2]
    cluster.fail(broken)
    upgrade(cluster)
    assert cluster.turn().delete == (("default", broken),)


def test_a_bad_template_stops_the_rollout_and_going_back_repairs_it() -> None:
    cluster = settled(replace(DEPLOYMENT, replicas=4, max_surge="25%", max_unavailable="25%"))
    before = cluster.workloads
    upgrade(cluster)
    for _ in range(5):
        cluster.turn()
    assert (cluster.available(), len(cluster.alive)) == (3, 5)
    kept = {state.pod.name for state in cluster.alive if state.ready}
    cluster.workloads = before
    cluster.settle()
    assert kept <= set(cluster.names)
    assert cluster.revisions() == {revision_of(template())}


def test_recreate_waits_until_every_old_pod_is_gone() -> None:
    cluster = settled(replace(DEPLOYMENT, strategy=Strategy.RECREATE))
    old = cluster.names
    upgrade(cluster)
    assert [name for _, name in cluster.turn().delete] == sorted(old, key=cluster.deleted.index)
    cluster.finish(*old[1:])
    assert cluster.turn().create == ()
    cluster.finish(old[0])
    assert len(cluster.turn().create) == 3


def test_scaling_down_takes_unready_then_crowded_then_newer_pods() -> None:
    revision = revision_of(template())

    def state(name: str, node: str, since: float | None) -> PodState:
        pod = Pod(name, node, APP, owner=DEPLOYMENT.owner, revision=revision)
        return PodState(pod, ready=since is not None, ready_since=since, created=since or 0)

    pods = [
        state("old", "n2", 1),
        state("new", "n2", 9),
        state("crowded-new", "n1", 3),
        state("crowded-old", "n1", 2),
        state("crowded-older", "n1", 1),
        state("unready", "n3", None),
    ]
    gone = []
    for replicas in range(5, 0, -1):
        decided = step([replace(DEPLOYMENT, replicas=replicas)], pods, ("n1", "n2", "n3"), 50)
        gone.append(decided.delete[-1][1])
    assert gone == ["unready", "crowded-new", "crowded-old", "crowded-older", "new"]


def test_a_pod_that_is_ending_is_replaced_at_once() -> None:
    cluster = settled(DEPLOYMENT)
    cluster.pods[cluster.names[0]] = replace(cluster.pods[cluster.names[0]], terminating=True)
    assert len(cluster.turn().create) == 1


def test_min_ready_counts_from_the_moment_of_readiness() -> None:
    cluster = settled(replace(DEPLOYMENT, replicas=1, max_surge="1", max_unavailable="0", min_ready=30))
    (old,) = cluster.names
    upgrade(cluster)
    (new,) = cluster.turn().create
    assert cluster.turn().wait is None
    cluster.ready(new.name)
    cluster.now += 10
    assert cluster.turn() == replace(cluster.turn(), delete=(), wait=20.0)
    cluster.now += 20
    assert cluster.turn().delete == (("default", old),)


def test_the_shortest_wait_counts() -> None:
    cluster = Cluster(replace(DAEMON_SET, min_ready=30))
    cluster.turn()
    for name in cluster.created:
        cluster.ready(name)
        cluster.now += 5
    assert cluster.turn().wait == 15.0


def test_a_pod_that_goes_leaves_room_for_one_that_comes() -> None:
    cluster = settled(replace(DEPLOYMENT, replicas=2, template=replace(template(), node="n1")), nodes=("n1", "n2"))
    cluster.pods["own"] = PodState(Pod("own", "n2"))
    cluster.workloads = (replace(DEPLOYMENT, name="other", replicas=1),)
    assert [pod.node for pod in cluster.turn().create] == ["n1"]


def test_pods_of_a_workload_or_a_node_that_is_gone_go() -> None:
    cluster = settled(DEPLOYMENT)
    own = Pod("own", "n1")
    cluster.pods["own"] = PodState(own)
    cluster.nodes = ("n1", "n2")
    lost = [name for name in cluster.names if cluster.pods[name].pod.node == "n3"]
    decided = cluster.turn()
    assert [name for _, name in decided.delete] == lost
    assert len(decided.create) == 1
    cluster.workloads = ()
    cluster.settle()
    assert cluster.names == ["own"]


def test_a_pod_waits_for_the_node_that_it_names() -> None:
    cluster = Cluster(replace(DEPLOYMENT, template=replace(template(), node="n4")))
    assert cluster.turn().create == ()
    cluster.nodes = (*cluster.nodes, "n4")
    assert [pod.node for pod in cluster.turn().create] == ["n4"] * 3


# StatefulSets


def test_a_stateful_set_s_pods_come_one_by_one_with_their_identity() -> None:
    cluster = Cluster(STATEFUL_SET)
    (pod,) = cluster.turn().create
    revision = revision_of(template())
    assert (pod.name, pod.hostname, pod.subdomain, pod.revision) == ("web-0", "web-0", "web", revision)
    assert dict(pod.labels) == {
        "app": "web",
        "controller-revision-hash": f"web-{revision}",
        "statefulset.kubernetes.io/pod-name": "web-0",
        "apps.kubernetes.io/pod-index": "0",
    }
    assert cluster.turn().create == ()
    cluster.ready("web-0")
    assert [pod.name for pod in cluster.turn().create] == ["web-1"]


def test_parallel_creates_and_removes_all_at_once_but_updates_one_by_one() -> None:
    cluster = Cluster(replace(STATEFUL_SET, parallel=True))
    assert [pod.name for pod in cluster.turn().create] == ["web-0", "web-1", "web-2"]
    cluster.settle()
    upgrade(cluster)
    assert cluster.turn().delete == (("default", "web-2"),)
    assert cluster.turn().delete == ()
    cluster.settle()
    cluster.workloads = (replace(cluster.workloads[0], replicas=0),)
    assert len(cluster.turn().delete) == 3


def test_a_stateful_set_updates_from_the_highest_and_keeps_names() -> None:
    cluster = settled(STATEFUL_SET)
    cluster.deleted.clear()
    upgrade(cluster)
    assert cluster.turn().delete == (("default", "web-2"),)
    assert cluster.turn().create == ()  # the name is in use until the pod is gone
    cluster.finish("web-2")
    assert [pod.name for pod in cluster.turn().create] == ["web-2"]
    assert cluster.turn().delete == ()
    cluster.settle()
    assert cluster.deleted == ["web-2", "web-1", "web-0"]


def test_below_the_partition_the_old_template_stays_even_for_a_new_pod() -> None:
    cluster = settled(replace(STATEFUL_SET, template=replace(template(), dns_policy=DnsPolicy.DEFAULT)))
    old = {name: state.pod for name, state in cluster.pods.items()}
    upgrade(cluster, partition=2)
    cluster.settle()
    assert cluster.deleted == ["web-2"]
    cluster.finish("web-0")
    cluster.settle()
    assert replace(cluster.pods["web-0"].pod, node="") == replace(old["web-0"], node="")
    upgrade(cluster, partition=0)
    cluster.settle()
    assert cluster.revisions() == {revision_of(template(2))}


def test_on_delete_waits_for_somebody_to_delete() -> None:
    cluster = settled(replace(STATEFUL_SET, strategy=Strategy.ON_DELETE))
    upgrade(cluster)
    cluster.settle()
    assert cluster.deleted == []
    cluster.finish("web-1")
    assert [pod.revision for pod in cluster.turn().create] == [revision_of(template(2))]


def test_scaling_down_waits_for_the_one_before() -> None:
    cluster = settled(replace(STATEFUL_SET, replicas=4))
    cluster.workloads = (replace(cluster.workloads[0], replicas=1),)
    assert cluster.turn().delete == (("default", "web-3"),)
    assert cluster.turn().delete == ()
    cluster.finish("web-3")
    cluster.fail("web-1")
    assert cluster.turn().delete == (("default", "web-2"),)
    cluster.finish("web-2")
    assert cluster.turn().delete == (("default", "web-1"),)
    cluster.finish("web-1")
    cluster.fail("web-0")
    assert cluster.turn().delete == ()


def test_a_name_of_somebody_else_is_not_taken() -> None:
    cluster = Cluster(STATEFUL_SET)
    cluster.pods["web-0"] = PodState(Pod("web-0", "n1"))
    assert cluster.turn().create == ()


def test_names_too_long_for_their_labels_are_refused() -> None:
    check(replace(STATEFUL_SET, name="w" * 52))
    check(replace(DEPLOYMENT, name="w" * 63))
    with pytest.raises(PlanError, match=r"StatefulSet default/w+: its name has 53 characters"):
        check(replace(STATEFUL_SET, name="w" * 53))


# DaemonSets


def test_a_daemon_set_has_a_pod_on_each_node_that_there_is() -> None:
    cluster = settled(DAEMON_SET)
    assert sorted(state.pod.node for state in cluster.alive) == ["n1", "n2", "n3"]
    assert dict(cluster.alive[0].pod.labels)["controller-revision-hash"] == revision_of(template())
    cluster.nodes = ("n2", "n3", "n4")
    decided = cluster.turn()
    assert [pod.node for pod in decided.create] == ["n4"]
    assert [cluster.pods[name].pod.node for _, name in decided.delete] == ["n1"]
    cluster.workloads = (replace(DAEMON_SET, template=replace(template(), node="n2")),)
    cluster.settle()
    assert [state.pod.node for state in cluster.alive] == ["n2"]


def test_a_daemon_set_replaces_a_node_s_pod_only_when_the_old_one_is_gone() -> None:
    cluster = settled(DAEMON_SET)
    upgrade(cluster)
    (gone,) = cluster.turn().delete
    assert not any((again := cluster.turn()).create + again.delete)
    cluster.finish(gone[1])
    (new,) = cluster.turn().create
    assert cluster.turn().delete == ()
    cluster.ready(new.name)
    assert len(cluster.turn().delete) == 1


def test_a_daemon_set_s_share_of_unavailable_pods_rounds_up() -> None:
    cluster = settled(replace(DAEMON_SET, max_unavailable="34%"))
    upgrade(cluster)
    assert len(cluster.turn().delete) == 2


def test_unavailable_old_pods_of_a_daemon_set_all_go_at_once() -> None:
    cluster = settled(DAEMON_SET)
    for name in cluster.names[:2]:
        cluster.fail(name)
    broken = {("default", name) for name in cluster.names[:2]}
    upgrade(cluster)
    assert set(cluster.turn().delete) == broken


def test_a_second_pod_on_a_node_goes_and_on_delete_updates_nothing() -> None:
    cluster = settled(replace(DAEMON_SET, strategy=Strategy.ON_DELETE))
    first = cluster.alive[0]
    cluster.pods["second"] = replace(first, pod=replace(first.pod, name="second"), created=cluster.now + 1)
    upgrade(cluster)
    assert cluster.turn().delete == (("default", "second"),)
