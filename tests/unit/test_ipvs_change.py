"""IPVS mode, many ports: what a change touches, and the steps that a node's virtual servers take (facts.md 4.2, 4.3).

The kernel's side is played by `Kernel` below, which refuses what the real one refuses.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from netlab.service.ipvs import Flag, RealServer, VirtualKey, VirtualServer, render
from netlab.service.ipvs_change import Command, Installed, Place, Step, after, steps
from netlab.service.ipvs_sets import Entry, IpSet
from netlab.service.ipvs_table import PortKey, Table
from netlab.service.model import Endpoint, Protocol, ServicePort
from netlab.topology.addresses import Address
from tests.unit.service_ports import EVERYWHERE, FULL, NODE, WEB

KEY = VirtualKey(IPv4Address("10.96.0.50"), Protocol.TCP, 80)
UDP_KEY = KEY._replace(protocol=Protocol.UDP)
A, B, C = (RealServer(IPv4Address(f"10.244.1.{number}"), 8080) for number in (1, 2, 3))


class Kernel:
    """Virtual servers that take steps as the kernel does: what exists is not made, what does not is not changed."""

    def __init__(self) -> None:
        self.virtual: dict[VirtualKey, Installed] = {}

    def take(self, taken: Iterable[Step]) -> None:
        for step in taken:
            key, server = step.virtual.key, step.server
            if step.command is Command.NEW_SERVICE:
                assert key not in self.virtual
                self.virtual[key] = Installed(step.virtual.scheduler, step.virtual.flags, step.virtual.timeout)
                continue
            found = self.virtual[key]
            match step.command:
                case Command.SET_SERVICE:
                    self.virtual[key] = replace(found, flags=step.virtual.flags, timeout=step.virtual.timeout)
                case Command.DEL_SERVICE:
                    del self.virtual[key]
                case Command.NEW_DEST:
                    assert server not in found.weights
                    found.weights[server] = step.weight  # type: ignore[index]
                case Command.SET_DEST:
                    assert server in found.weights
                    found.weights[server] = step.weight  # type: ignore[index]
                case Command.DEL_DEST:
                    del found.weights[server]  # type: ignore[arg-type]


def wanted(*servers: RealServer, key: VirtualKey = KEY, timeout: int = 0) -> VirtualServer:
    return VirtualServer(key, "rr", Flag.PERSISTENT if timeout else Flag.NONE, timeout, servers)


def installed(**weights: int) -> Installed:
    return Installed("rr", Flag.NONE, 0, {{"a": A, "b": B, "c": C}[name]: weight for name, weight in weights.items()})


def words(taken: Iterable[Step]) -> list[str]:
    names = {A: "a", B: "b", C: "c", None: ""}
    return [f"{step.command.name} {names[step.server]} {step.weight if step.server else ''}".strip() for step in taken]


# --- one virtual server ----------------------------------------------------------------------------------------------


def test_new_changed_and_gone() -> None:
    assert words(steps(KEY, wanted(A, B), None)) == ["NEW_SERVICE", "NEW_DEST a 1", "NEW_DEST b 1"]
    assert words(steps(KEY, wanted(A, B), installed(a=1, b=1))) == []
    assert words(steps(KEY, wanted(A, timeout=9), installed(a=1))) == ["SET_SERVICE"]
    assert words(steps(KEY, None, installed(a=1))) == ["DEL_SERVICE"]
    assert words(steps(KEY, None, None)) == []


def test_a_server_that_goes_gets_weight_0_and_udp_none() -> None:
    assert words(steps(KEY, wanted(B), installed(a=1, b=1))) == ["SET_DEST a 0"]
    assert words(steps(KEY, wanted(B), installed(a=0, b=1))) == []  # it is on its way already
    assert words(steps(UDP_KEY, wanted(B, key=UDP_KEY), installed(a=1, b=1))) == ["DEL_DEST a 1"]


def test_a_server_that_comes_back() -> None:
    """One that was leaving is made anew (facts.md 4.3); one of an earlier process gets its weight back."""
    found = installed(a=0)
    assert words(steps(KEY, wanted(A), found, [Place(KEY, A)])) == ["DEL_DEST a 1", "NEW_DEST a 1"]
    assert words(steps(KEY, wanted(A), found)) == ["SET_DEST a 1"]


def test_a_step_says_what_it_does() -> None:
    (step,) = steps(KEY, wanted(B), installed(a=1, b=1))
    assert str(step) == "change real server: 10.96.0.50 TCP port 80, server 10.244.1.1 port 8080"
    (step,) = steps(KEY, None, installed())
    assert str(step) == "delete virtual server: 10.96.0.50 TCP port 80"


servers = st.lists(st.sampled_from([A, B, C]), unique=True).map(tuple)
states = st.none() | st.builds(lambda real, timeout: wanted(*real, timeout=timeout), servers, st.sampled_from([0, 9]))


@given(st.lists(states))
def test_any_path_of_states_ends_in_the_last(path: list[VirtualServer | None]) -> None:
    """What `after` says is what the kernel has, and what is left over is only servers of weight 0 that are leaving."""
    kernel = Kernel()
    known: Installed | None = None
    leaving: set[Place] = set()
    for state in path:
        taken = list(steps(KEY, state, known, leaving))
        kernel.take(taken)
        known = after(known, taken)
        stopped = {Place(KEY, step.server) for step in taken if step.server and step.weight == 0}
        named = {Place(KEY, step.server) for step in taken if step.server}
        leaving = (leaving - named) | stopped if known else set()
        assert kernel.virtual.get(KEY) == known
        assert (known is None) == (state is None)
        if known and state:
            assert {server for server, weight in known.weights.items() if weight} == set(state.servers)
            assert {Place(KEY, server) for server, weight in known.weights.items() if not weight} == leaving


# --- many ports ------------------------------------------------------------------------------------------------------


def update(table: Table, *ports: ServicePort, gone: Iterable[ServicePort] = ()) -> None:
    table.update({port.key: render(port, NODE) for port in ports} | {port.key: None for port in gone})


class Contents(NamedTuple):
    virtual: dict[VirtualKey, VirtualServer | None]
    addresses: set[Address]
    entries: set[Entry]
    filled: frozenset[IpSet]
    out_filter: tuple[str, ...]


def contents(table: Table) -> Contents:
    found = {key: table.find(key) for key in table.keys}
    return Contents(found, set(table.addresses), set(table.entries), table.filled, table.out_filter)


def test_ports_share_an_address_until_the_last_one_goes() -> None:
    table, dns = Table(), replace(WEB, port_name="dns", port=53)
    update(table, WEB, dns)
    touched = table.update({WEB.key: None})
    assert touched.addresses == {WEB.cluster_ip}
    assert WEB.cluster_ip in table.addresses
    update(table, gone=[dns])
    assert contents(table) == contents(Table())


def test_an_unchanged_port_touches_nothing() -> None:
    table = Table()
    update(table, WEB)
    touched = table.update({WEB.key: render(WEB, NODE)})
    assert (touched.virtual, touched.addresses, touched.entries) == (set(), set(), set())


def test_two_claims_on_one_virtual_server() -> None:
    """The first by name has it; when it goes, the other one does."""
    external = (IPv4Address("192.0.2.9"),)
    first = replace(WEB, name="a", cluster_ip=IPv4Address("10.96.0.1"), external_ips=external, endpoints=())
    second = replace(WEB, name="b", external_ips=external)
    key = VirtualKey(external[0], Protocol.TCP, 80)
    table = Table()
    update(table, second, first)
    assert table.find(key) == VirtualServer(key)
    update(table, gone=[first])
    found = table.find(key)
    assert found is not None
    assert len(found.servers) == 2


def test_sets_are_filled_as_long_as_one_port_fills_them() -> None:
    table, other = Table(), replace(EVERYWHERE, name="other", cluster_ip=IPv4Address("10.96.0.51"), node_port=30081)
    update(table, EVERYWHERE, other)
    assert IpSet.NODE_PORT_TCP in table.filled
    assert len(table.out_filter) == 2
    update(table, replace(EVERYWHERE, node_port=0))
    assert IpSet.NODE_PORT_TCP in table.filled
    update(table, gone=[other])
    assert IpSet.NODE_PORT_TCP not in table.filled
    assert len(table.out_filter) == 1


variants = st.sampled_from(
    [
        *(WEB, FULL, EVERYWHERE, replace(WEB, endpoints=()), replace(WEB, affinity=60)),
        replace(WEB, name="other", external_ips=(IPv4Address("192.0.2.9"),)),
        replace(WEB, name="other", protocol=Protocol.UDP),
    ]
)


@given(st.lists(st.tuples(variants, st.booleans())))
def test_any_path_of_changes_comes_to_what_a_fresh_table_has(path: list[tuple[ServicePort, bool]]) -> None:
    table, now = Table(), dict[PortKey, ServicePort]()
    for port, stays in path:
        now.pop(port.key, None)
        if stays:
            now[port.key] = port
        before = contents(table)
        touched = table.update({port.key: render(port, NODE) if stays else None})
        assert _differing(before, contents(table)) <= touched.virtual | touched.addresses | touched.entries
    fresh = Table()
    update(fresh, *now.values())
    assert contents(table) == contents(fresh)


def _differing(before: Contents, now: Contents) -> set[object]:
    keys = before.virtual | now.virtual
    differing = {key for key in keys if before.virtual.get(key) != now.virtual.get(key)}
    return differing | (before.addresses ^ now.addresses) | (before.entries ^ now.entries)


def test_one_change_among_many_ports_costs_no_more() -> None:
    """Below 5 ms, where all of them take a hundred times as long."""
    count = 10_000

    def numbered(index: int) -> ServicePort:
        address = IPv4Address(int(IPv4Address("10.96.0.0")) + index)
        ends = tuple(Endpoint(IPv4Address(int(IPv4Address("10.244.0.0")) + 2 * index + i), 80, "n2") for i in range(2))
        return replace(WEB, name=f"s{index}", cluster_ip=address, endpoints=ends)

    table = Table()
    update(table, *(numbered(index) for index in range(count)))
    best = 1.0
    for index in range(5):
        start = time.perf_counter()
        changed = replace(numbered(index), endpoints=())
        table.update({changed.key: render(changed, NODE)})
        best = min(best, time.perf_counter() - start)
    assert best < 0.005
