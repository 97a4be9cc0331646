"""What holds during any rollout, in whatever order pods get ready and go."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from netlab.controllers.deployment import limits
from netlab.controllers.revision import revision_of
from netlab.topology.pod import Strategy, Workload, WorkloadKind
from tests.unit.workload_cluster import Cluster, template, workload

RANDOM = st.randoms(use_true_random=False)
AMOUNT = st.sampled_from(["0", "1", "2", "5", "10%", "25%", "50%", "100%"])
MIN_READY = st.sampled_from([0, 5])


def started(declared: Workload, random: Random) -> Cluster:
    cluster = Cluster(declared)
    cluster.settle(random)
    return cluster


@given(RANDOM, st.integers(0, 9), AMOUNT, AMOUNT, MIN_READY, st.integers(0, 12))
def test_a_deployment_is_never_short_and_never_too_large(
    random: Random, replicas: int, surge: str, unavailable: str, min_ready: int, interruption: int
) -> None:
    """Also if another template comes in the middle."""
    declared = workload(WorkloadKind.DEPLOYMENT, replicas, unavailable=unavailable, surge=surge)
    cluster = started(replace(declared, min_ready=min_ready), random)
    most, least = replicas + limits(declared)[0], replicas - limits(declared)[1]
    checks = Counter[str]()

    def check() -> None:
        checks["done"] += 1
        if checks["done"] == interruption:
            cluster.workloads = (replace(cluster.workloads[0], template=template(3)),)
        assert len(cluster.alive) <= most
        assert cluster.available() >= least

    cluster.workloads = (replace(cluster.workloads[0], template=template(2)),)
    cluster.settle(random, check)
    assert len(cluster.pods) == replicas
    assert cluster.revisions() <= {revision_of(cluster.workloads[0].template)}
    assert all(count <= -(-replicas // 3) + 1 for count in Counter(s.pod.node for s in cluster.alive).values())


@given(RANDOM, st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(0, 8)), min_size=1, max_size=5))
def test_a_deployment_comes_to_what_was_declared_last(random: Random, changes: list[tuple[int, int, int]]) -> None:
    """Whatever is scaled and changed while a rollout runs, and whatever fails."""
    cluster = Cluster(workload(WorkloadKind.DEPLOYMENT, surge="25%", unavailable="25%"))
    for replicas, version, turns in changes:
        cluster.workloads = (replace(cluster.workloads[0], replicas=replicas, template=template(version)),)
        for _ in range(turns):
            cluster.turn()
            for name in random.sample(sorted(cluster.pods), len(cluster.pods) // 2):
                state = cluster.pods[name]
                (cluster.finish if state.terminating else cluster.fail if state.ready else cluster.ready)(name)
    cluster.settle(random)
    assert len(cluster.pods) == changes[-1][0]
    assert cluster.revisions() <= {revision_of(template(changes[-1][1]))}


@given(RANDOM, st.integers(0, 6))
def test_recreate_never_mixes_templates(random: Random, replicas: int) -> None:
    declared = replace(workload(WorkloadKind.DEPLOYMENT, replicas), strategy=Strategy.RECREATE)
    cluster = started(declared, random)

    def check() -> None:
        assert len({state.pod.revision for state in cluster.pods.values()}) <= 1

    cluster.workloads = (replace(declared, template=template(2)),)
    cluster.settle(random, check)
    assert len(cluster.pods) == replicas


@given(RANDOM, st.integers(0, 6), st.integers(0, 6), st.integers(0, 7), MIN_READY, st.sampled_from(["1", "2"]))
def test_a_stateful_set_keeps_its_order(
    random: Random, first: int, second: int, partition: int, min_ready: int, unavailable: str
) -> None:
    """While it starts, is scaled and updated: at each creation all below are available, and few enough are missing."""
    declared = replace(
        workload(WorkloadKind.STATEFUL_SET, first, unavailable=unavailable), min_ready=min_ready, partition=partition
    )
    cluster = Cluster(declared)
    seen = 0

    def is_available(ordinal: int) -> bool:
        state = cluster.pods.get(f"web-{ordinal}")
        return state is not None and state.unavailable_for(min_ready, cluster.now) == 0

    def check_order() -> None:
        nonlocal seen
        for name in cluster.created[seen:]:
            assert all(is_available(below) for below in range(int(name[4:])))
        seen = len(cluster.created)

    def check_update() -> None:
        check_order()
        assert cluster.available() >= second - int(unavailable)

    cluster.settle(random, check_order)
    assert cluster.created == [f"web-{ordinal}" for ordinal in range(first)]
    cluster.workloads = (replace(declared, replicas=second),)
    cluster.settle(random, check_order)
    assert cluster.deleted == [f"web-{ordinal}" for ordinal in range(first - 1, second - 1, -1)]
    cluster.deleted.clear()
    cluster.workloads = (replace(declared, replicas=second, template=template(2)),)
    cluster.settle(random, check_update)
    assert cluster.deleted == [f"web-{ordinal}" for ordinal in range(second - 1, partition - 1, -1)]
    assert cluster.names == [f"web-{ordinal}" for ordinal in range(second)]
    for name, state in cluster.pods.items():
        assert state.pod.revision == revision_of(template(1 if int(name[4:]) < partition else 2))


@given(RANDOM, st.integers(0, 6), st.integers(0, 6))
def test_a_parallel_stateful_set_updates_one_by_one(random: Random, first: int, second: int) -> None:
    declared = replace(workload(WorkloadKind.STATEFUL_SET, first), parallel=True)
    cluster = started(declared, random)
    cluster.workloads = (replace(declared, replicas=second),)
    cluster.settle(random)

    def check() -> None:
        assert cluster.available() >= second - 1

    cluster.workloads = (replace(declared, replicas=second, template=template(2)),)
    cluster.settle(random, check)
    assert cluster.names == [f"web-{ordinal}" for ordinal in range(second)]
    assert cluster.revisions() <= {revision_of(template(2))}


@given(RANDOM, st.integers(1, 7), AMOUNT, MIN_READY, st.booleans())
def test_a_daemon_set_has_one_pod_a_node_and_few_missing(
    random: Random, nodes: int, unavailable: str, min_ready: int, grows: bool
) -> None:
    declared = replace(workload(WorkloadKind.DAEMON_SET, unavailable=unavailable), min_ready=min_ready)
    names = tuple(f"n{number}" for number in range(nodes + 1))
    cluster = Cluster(declared, nodes=names[:nodes])
    allowed = max(1, int(unavailable)) if unavailable[-1] != "%" else max(1, -(-int(unavailable[:-1]) * nodes // 100))

    def check() -> None:
        found = Counter(state.pod.node for state in cluster.pods.values())
        assert all(count == 1 for count in found.values())

    def check_update() -> None:
        check()
        assert cluster.available() >= nodes - allowed

    cluster.settle(random, check)
    cluster.workloads = (replace(declared, template=template(2)),)
    cluster.settle(random, check_update)
    cluster.nodes = names if grows else names[: nodes - 1]
    cluster.settle(random, check)
    assert sorted(state.pod.node for state in cluster.pods.values()) == sorted(cluster.nodes)
    assert cluster.revisions() <= {revision_of(template(2))}
