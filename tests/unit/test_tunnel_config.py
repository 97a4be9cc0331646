"""The file that tells a forwarder what to do, and what a change of it means to the one that runs."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab import names
from netlab.plan.diff import Action, Phase, diff
from netlab.plan.drift import differences
from netlab.plan.objects import Forwarder, Objects, Tun
from netlab.plan.text import command, config_of
from netlab.supervisor.client import _process, _spec
from netlab.topology.model import ForwarderKind, HostGwBackend, UdpBackend
from netlab.tunnel.config import Config, parse, render
from netlab.tunnel.routes import Peer
from tests.labs import planned, topology

CONFIG = Config(
    device="flannel0",
    mtu=1472,
    local=IPv4Address("172.18.0.2"),
    port=8285,
    uplink="eth0",
    bridge="cni0",
    source=IPv4Address("10.244.1.0"),
    forwarder="simple",
    peers=(Peer(IPv4Address("172.18.0.3"), (IPv4Network("10.244.2.0/24"),)),),
)
TEXT = """\
{
  "device": "flannel0",
  "mtu": 1472,
  "local": "172.18.0.2",
  "port": 8285,
  "uplink": "eth0",
  "bridge": "cni0",
  "source": "10.244.1.0",
  "forwarder": "simple",
  "peers": [
    {"address": "172.18.0.3", "podCIDRs": ["10.244.2.0/24"]}
  ]
}
"""
N1 = names.netns("t", "n1")

addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
networks = st.tuples(addresses, st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False))
peers = st.builds(Peer, addresses, st.lists(networks, max_size=3).map(tuple), st.booleans())
configs = st.builds(
    Config,
    device=st.text(max_size=15),
    mtu=st.integers(576, 65535),
    local=addresses,
    port=st.integers(1, 65535),
    uplink=st.text(max_size=15),
    bridge=st.text(max_size=15),
    source=addresses,
    forwarder=st.sampled_from([kind.value for kind in ForwarderKind]),
    peers=st.lists(peers, max_size=5).map(tuple),
)


# --- the text --------------------------------------------------------------------------------------------------------


def test_the_text_is_what_people_read() -> None:
    assert render(CONFIG) == TEXT
    assert render(replace(CONFIG, peers=())).endswith('"peers": []\n}\n')


@given(configs)
def test_a_configuration_comes_back_as_it_was(config: Config) -> None:
    assert parse(render(config)) == config
    json.loads(render(config))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[]", "not what netlab writes"),
        ("7", "not what netlab writes"),
        ("{}", "'device' is missing"),
        (TEXT.replace('"port": 8285,', ""), "'port' is missing"),
        (TEXT.replace("8285", '"many"'), "many"),
        (TEXT.replace("172.18.0.3", "172.18.0.300"), "172.18.0.300"),
        (TEXT.replace("10.244.2.0/24", "10.244.2.1/24"), "has host bits set"),
        (TEXT.replace('["10.244.2.0/24"]', "null"), "not what netlab writes"),
        (TEXT[:-5], "delimiter"),
    ],
)
def test_a_broken_text_is_a_value_error_that_says_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_read_or_refused(tree: object) -> None:
    for text in (json.dumps(tree), json.dumps({**json.loads(TEXT), "peers": tree})):
        try:
            assert isinstance(parse(text), Config)
        except ValueError:
            continue


# --- the plan --------------------------------------------------------------------------------------------------------


def plan(*, nodes: int = 2, mtu: int = 1500, backend: UdpBackend | None = None) -> Objects:
    return planned(topology("t", nodes=nodes, pods=2, mtu=mtu, backend=backend or UdpBackend())).objects


def forwarder(objects: Objects) -> Forwarder:
    return next(entry for entry in objects[N1] if isinstance(entry, Forwarder))


def fate(before: Objects, after: Objects) -> list[tuple[Phase, Action]]:
    """Return what becomes of n1's forwarder."""
    return [
        (op.phase, op.action)
        for op in diff(before, after)
        if op.netns == N1 and (isinstance(op.new, Forwarder) or isinstance(op.old, Forwarder))
    ]


RESTARTED = [(Phase.STOP, Action.DELETE), (Phase.PROCESS, Action.CREATE)]
TOLD = [(Phase.PROCESS, Action.CHANGE)]


def test_a_node_knows_all_others_and_not_itself() -> None:
    found = forwarder(plan(nodes=3))
    assert [str(peer.address) for peer in found.peers] == ["172.18.0.3", "172.18.0.4"]
    assert [str(cidr) for peer in found.peers for cidr in peer.pod_cidrs] == ["10.244.2.0/24", "10.244.3.0/24"]
    assert (str(found.local), str(found.source), found.mtu) == ("172.18.0.2", "10.244.1.0", 1472)


def test_peers_and_mtu_are_told_and_anything_else_is_a_restart() -> None:
    assert fate(plan(), plan()) == []
    assert fate(plan(), plan(nodes=3)) == TOLD
    assert fate(plan(), plan(mtu=9000)) == TOLD
    assert fate(plan(), plan(backend=UdpBackend(port=8286))) == RESTARTED
    assert fate(plan(), plan(backend=UdpBackend(forwarder=ForwarderKind.SIMPLE))) == RESTARTED


def test_a_forwarder_starts_last_and_ends_first() -> None:
    other = planned(topology("t", nodes=2, pods=2, backend=HostGwBackend())).objects
    assert fate({}, plan()) == [(Phase.PROCESS, Action.CREATE)]
    assert fate(plan(), other) == [(Phase.STOP, Action.DELETE)]
    assert fate(plan(), {}) == [(Phase.STOP, Action.DELETE)]


def test_a_forwarder_whose_device_is_new_is_started_again_and_no_other_is() -> None:
    before = plan()
    lost = {**before, N1: frozenset(entry for entry in before[N1] if getattr(entry, "name", "") != "flannel0")}
    assert fate(lost, before) == RESTARTED
    assert {op.netns for op in diff(lost, before) if op.phase in (Phase.STOP, Phase.PROCESS)} == {N1}
    assert [str(line) for line in differences(diff(lost, before))] == ["n1: interface flannel0: missing"]


def test_a_device_with_another_mtu_is_changed_in_place() -> None:
    before = plan()
    device = next(entry for entry in before[N1] if isinstance(entry, Tun))
    narrow = {**before, N1: before[N1] - {device} | {replace(device, mtu=1300)}}
    assert [str(line) for line in differences(diff(narrow, before))] == [
        "n1: interface flannel0: mtu is 1300, should be 1472"
    ]
    assert fate(narrow, before) == []


def test_drift_says_what_a_forwarder_does_not_know() -> None:
    found = [str(line) for line in differences(diff(plan(), plan(nodes=3)))]
    assert (
        "n1: forwarder: peers is 172.18.0.3 (10.244.2.0/24), "
        "should be 172.18.0.3 (10.244.2.0/24), 172.18.0.4 (10.244.3.0/24)"
    ) in found
    ported = diff(plan(), plan(backend=UdpBackend(port=8286)))
    assert "n1: forwarder: port is 8285, should be 8286" in [str(line) for line in differences(ported)]


def test_the_supervisors_spec_is_the_forwarder() -> None:
    wanted = forwarder(plan(nodes=3))
    assert _process(_spec(N1, wanted)) == wanted


def test_the_dry_run_holds_the_whole_configuration() -> None:
    start = next(op for op in diff({}, plan()) if op.netns == N1 and isinstance(op.new, Forwarder))
    (text,) = command(start)
    first, *lines, last = text.splitlines()
    assert first == f"ip netns exec {N1} python3 -m netlab.tunnel - <<'CONFIG' &  # netlab keeps it"
    assert last == "CONFIG"
    assert parse("\n".join(lines)) == config_of(forwarder(plan()))
