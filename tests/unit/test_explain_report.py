"""`netlab svc`: what is asked for, what is answered, how it looks in 80 columns, and what a mistake says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace

import pytest

from netlab.errors import NetlabError, NotSupported, UsageError
from netlab.explain import saved
from netlab.explain.explain import Client
from netlab.explain.model import Reading, Source, Tables
from netlab.explain.question import Question, ask
from netlab.explain.read import read
from netlab.explain.report import explain_json, explain_text, rules_json, rules_text, view
from netlab.service.known import Known, declared
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import Proxy, Role, Topology
from netlab.topology.service import Service, ServiceType
from tests.labs import topology
from tests.unit.explained import GOLDEN, as_saved, iptables_of, ipvs_of, nft_of_golden, restore_text
from tests.unit.service_ports import FULL, WEB

BASE = topology("demo", nodes=2, pods=4)
LAB = replace(
    BASE,
    pods=(*BASE.pods, replace(BASE.pods[0], name="agent", host_network=True)),
    services=(Service("web"), Service("headless", headless=True)),
)
HELD = allocate(LAB, Snapshot())


def asked(service: str = "web", *, node: str | None = None, sender: str | None = None, lab: Topology = LAB) -> Question:
    known = declared(lab, service, "default")
    return ask(lab, HELD, service, "default", node=node, sender=sender, known=known)


def shown(
    tables: Sequence[Tables],
    *,
    service: str = "web",
    node: str | None = None,
    sender: str | None = None,
    lab: Topology = LAB,
) -> list[str]:
    question = asked(service, node=node, sender=sender, lab=lab)
    return list(explain_text(view(question, Reading(tuple(tables), ())), 80))


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_the_first_node_or_the_pods_own() -> None:
    assert asked(node=None, sender=None).node == "n1"
    assert asked(node="n2", sender=None).node == "n2"
    assert asked(node=None, sender="p-2").node == "n2"


def test_a_pods_address_and_a_nodes() -> None:
    (pod,) = asked(node=None, sender="p-2").clients
    assert (pod.address, pod.from_node) == (str(HELD.pods["p-2"][0]), False)
    (agent,) = asked(node=None, sender="agent").clients
    assert (agent.address, agent.from_node) == (str(HELD.leases["n1"].public_ips[0]), True)


def test_a_node_and_a_machine_outside() -> None:
    lab = replace(LAB, nodes=(*LAB.nodes, replace(LAB.nodes[0], name="ext1", role=Role.EXTERNAL)))
    held = allocate(lab, HELD)

    def clients(sender: str, node: str | None = None) -> tuple[str, str, list[Client]]:
        found = ask(lab, held, "web", "default", node=node, sender=sender, known=Known())
        return found.node, found.sender, list(found.clients)

    assert clients("n2") == ("n2", "node n2", [Client(str(held.leases["n2"].public_ips[0]), from_node=True)])
    outside = [Client(str(held.machines["ext1"][0]))]
    assert clients("ext1") == ("n1", "machine ext1", outside)
    assert clients("ext1", "n2") == ("n2", "machine ext1", outside)


@pytest.mark.parametrize(
    ("node", "pod", "message"),
    [
        ("n9", None, "lab demo has no cluster node 'n9'\n  hint: there are n1, n2"),
        ("kubelet", None, "lab demo has no cluster node 'kubelet'\n  hint: there are n1, n2"),
        (None, "p-22", "lab demo has no pod, node or machine 'p-22'\n  hint: did you mean p-2"),
        ("n1", "p-2", "packets of pod p-2 meet the rules of node n2, not n1's"),
    ],
)
def test_what_the_lab_does_not_have(node: str | None, pod: str | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(node=node, sender=pod)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("service", "proxy", "message"),
    [
        ("wbe", Proxy.IPTABLES, "there is no Service default/wbe on node n1\n  hint: did you mean default/web?"),
        ("headless", Proxy.IPTABLES, "Service default/headless is headless: it has no address and no rules"),
        ("wbe", Proxy.IPVS, "there is no Service default/wbe on node n1"),
        ("wbe", Proxy.NONE, "node n1 carries out no Services"),
    ],
)
def test_no_rules(service: str, proxy: Proxy, message: str) -> None:
    with pytest.raises(NetlabError) as caught:
        shown([iptables_of(WEB)] if proxy is Proxy.IPTABLES else [], service=service, lab=replace(LAB, proxy=proxy))
    assert message in str(caught.value)


@pytest.mark.parametrize("proxy", list(Proxy))
def test_rules_that_are_there_count_more_than_the_mode(proxy: Proxy) -> None:
    with pytest.raises(UsageError, match="there is no Service default/wbe"):
        shown([iptables_of(WEB)], service="wbe", lab=replace(LAB, proxy=proxy))


def test_a_service_of_another_namespace_is_suggested() -> None:
    with pytest.raises(UsageError, match="did you mean kube-system/web"):
        shown([iptables_of(replace(WEB, namespace="kube-system"))], lab=replace(LAB, services=()))


def test_a_service_that_has_no_rules_says_why() -> None:
    def said_of(known: Known) -> str:
        question = ask(LAB, HELD, "web", "default", node=None, sender=None, known=known)
        return str(view_fails(question))

    headless = Known(Service("web", headless=True), endpoints=("10.244.1.2:80", "10.244.2.2:80"))
    assert "DNS gives its pods' (10.244.1.2:80, 10.244.2.2:80)" in said_of(headless)
    named = Known(Service("web", type=ServiceType.EXTERNAL_NAME, external_name="example.org"))
    assert "cluster DNS sends its clients to example.org" in said_of(named)


def view_fails(question: Question) -> NetlabError:
    with pytest.raises(NetlabError) as caught:
        view(question, Reading((), ()))
    return caught.value


def test_ipvs_needs_the_control_plane() -> None:
    found = ask(LAB, HELD, "web", "default", node=None, sender=None, known=Known(Service("web")))
    with pytest.raises(NetlabError, match="IPVS mode, and only the control plane knows which addresses"):
        view(found, Reading((ipvs_of(WEB),), ()))
    answer = view(replace(found, known=Known(Service("web"), (WEB,))), Reading((ipvs_of(WEB),), ()))
    lines = list(rules_text(answer, 80))
    assert "IPv4, read by iptables-nft-save from the nft-backed tables, virtual servers by netlink" in lines
    assert max(map(len, lines[3:])) <= 80


# --- what is answered ------------------------------------------------------------------------------------------------


def test_explain_says_who_read_the_rules() -> None:
    lines = shown([iptables_of(WEB)])
    assert lines[:2] == ["Service default/web on node n1", ""]
    assert lines[2] == "IPv4, read by python-iptables from the legacy tables"


def test_both_kinds_of_tables_are_shown() -> None:
    both = [iptables_of(WEB), nft_of_golden()]
    lines = shown(both)
    assert [line for line in lines if line.startswith("IPv4, ")] == [
        "IPv4, read by python-iptables from the legacy tables",
        "IPv4, read by nft from kube-proxy's table",
    ]


def test_what_is_missing_is_warned_of() -> None:
    broken = iptables_of(WEB, change=("-A KUBE-MARK-MASQ -j MARK --or-mark 0x004000", ""))
    assert "nothing is masqueraded" in " ".join(shown([broken]))


def test_a_pods_packets_on_its_node() -> None:
    lines = shown([iptables_of(WEB)], sender="p-2")
    address = HELD.pods["p-2"][0]
    assert f"a packet of pod p-2, {address}:" in lines
    assert f"    {address} is in 10.244.0.0/16: not masqueraded" in lines


def test_names_of_pods_come_from_the_lab() -> None:
    end = replace(WEB.endpoints[0], address=HELD.pods["p-2"][0])
    text = "\n".join(shown([iptables_of(replace(WEB, endpoints=(end,)))]))
    assert f"with probability 1 (100 %): {end}, pod p-2 on n2" in text


RULES = """\
default/web:http tcp
 PACKETS      BYTES  RULE
nat KUBE-SERVICES
       3        180  to 10.96.0.50:80/tcp -> KUBE-SVC-CDGGSHYLG3RE2FKL
nat KUBE-SVC-CDGGSHYLG3RE2FKL
       0          0  to 10.96.0.50:80/tcp, not from 10.244.0.0/16 ->
                       KUBE-MARK-MASQ
       0          0  with probability 1/2 (50 %) -> KUBE-SEP-AFGSLHOD2HFNCBX4
       0          0  any packet -> KUBE-SEP-3OLK2YUW6LHBC4UX
nat KUBE-SEP-AFGSLHOD2HFNCBX4
       0          0  from 10.244.1.5 -> KUBE-MARK-MASQ
       0          0  tcp -> new destination 10.244.1.5:8080
"""


def test_rules_in_80_columns() -> None:
    text = as_saved(restore_text([WEB])).replace("-A ", "[0:0] -A ")
    text = text.replace("[0:0] -A KUBE-SERVICES", "[3:180] -A KUBE-SERVICES")
    tables = Tables(Source.NFT_BACKED, 4, saved.parse(text))
    answer = view(asked(node=None, sender=None), Reading((tables,), ()))
    lines = list(rules_text(answer, 80))
    assert "IPv4, read by iptables-nft-save from the nft-backed tables" in lines
    assert RULES in "\n".join(lines)
    assert max(map(len, lines)) <= 80


def test_a_mode_without_counters_says_so() -> None:
    answer = view(asked(node=None, sender=None), Reading((nft_of_golden(),), ()))
    lines = list(rules_text(answer, 80))
    assert "no counters in this mode: kube-proxy's nftables rules have none" in lines
    assert "       -          -  not from 198.51.100.0/24 -> drop" in lines
    assert max(map(len, lines)) <= 80
    assert rules_json(answer)["ports"][0]["rules"][0]["packets"] is None


def test_json() -> None:
    answer = view(asked(node=None, sender="p-1"), Reading((iptables_of(FULL),), ()))
    found = json.loads(json.dumps(explain_json(answer)))
    assert (found["service"], found["node"], found["from"]) == ("default/web", "n1", "pod p-1")
    chosen = [line for line in found["ports"][0]["lines"] if line.get("endpoint") == "10.244.1.5:8080"]
    assert {line["probability"] for line in chosen} == {"1/2"}


# --- reading ---------------------------------------------------------------------------------------------------------


class Node:
    """A node whose programs answer what a test says; one that it says nothing of fails."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers

    def __call__(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        for word in (*argv[-3:], argv[0].rpartition("/")[2], "-".join(argv[1:3]), argv[2] if len(argv) > 2 else ""):
            key = word.rpartition("/")[2].replace("-", "_").replace(".", "_")
            if key in self.answers:
                return subprocess.CompletedProcess(list(argv), 0, self.answers[key], "")
        return subprocess.CompletedProcess(list(argv), 1, "", "it is broken")


QUIET = {"iptables_nft_save": "", "list_tables": "", "ip_tables_names": ""}


def test_each_reader_is_named() -> None:
    text = as_saved(restore_text([WEB]))
    legacy = Node(**QUIET | {"ip_tables_names": "nat\nfilter\n", "netlab_explain_legacy": text})
    assert [tables.source for tables in read(legacy, [4]).tables] == [Source.LEGACY]
    backed = Node(**QUIET | {"iptables_nft_save": text})
    assert [tables.source for tables in read(backed, [4]).tables] == [Source.NFT_BACKED]
    listing = GOLDEN.read_text()
    native = Node(**QUIET | {"list_tables": "table ip kube-proxy\n", "kube_proxy": listing})
    assert [tables.source for tables in read(native, [4]).tables] == [Source.NFTABLES]
    assert read(Node(**QUIET), [4]) == Reading((), ())


def test_without_libiptc_another_tool_reads() -> None:
    text = as_saved(restore_text([WEB]))
    found = read(Node(**QUIET | {"ip_tables_names": "nat\n", "iptables_legacy_save": text}), [4])
    assert [tables.source for tables in found.tables] == [Source.LEGACY_SAVE]
    assert "python-iptables cannot read the legacy tables: it is broken; to have it: apt install" in found.remarks[0]


def test_two_kinds_at_once_are_warned_of() -> None:
    text = as_saved(restore_text([WEB]))
    found = read(
        Node(**QUIET | {"ip_tables_names": "nat", "netlab_explain_legacy": text, "iptables_nft_save": text}), [4]
    )
    assert [tables.source for tables in found.tables] == [Source.LEGACY, Source.NFT_BACKED]
    assert "IPv4: Service rules are in legacy tables and nft-backed tables at once" in found.remarks[0]


def test_no_tool_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netlab.paths.SBIN", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotSupported, match="the program iptables-nft-save is not available"):
        read(Node(**QUIET), [4])
