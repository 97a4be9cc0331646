"""The figures of `bench datapath`, the limits that they are held to, and the tables of both. Pure.

A figure belongs to a round; a ratio is taken within a round (`report`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import product
from typing import NamedTuple

from tests.bench.report import Spread, ratio, spread, table

FLANNEL, VXLAN = "flannel", "vxlan"
FORWARDERS = ("simple", "batched", "ebpf")


class Topology(StrEnum):
    """What sends to what, over what."""

    NODES = "node to node"
    PODS = "pod to pod"
    NIC = "NIC-like"  # node to node, every frame on the wire at most 1514 bytes long
    NONE = ""  # of a process by itself


class Metric(StrEnum):
    """What is measured, in which unit."""

    TCP1 = "TCP 1 Gbit/s"
    TCP4 = "TCP 4 Gbit/s"
    CPU1 = "TCP 1 CPU s/GB"
    CPU4 = "TCP 4 CPU s/GB"
    OWN1 = "TCP 1 own s/GB"  # of the forwarders alone
    OWN4 = "TCP 4 own s/GB"
    AGAIN1 = "TCP 1 retransmissions"
    AGAIN4 = "TCP 4 retransmissions"
    SMALL = "64-byte UDP kpps"
    TRIP = "RTT p50 us"
    TRIP_P99 = "RTT p99 us"
    RSS = "RSS MB"
    PSS = "PSS MB"
    START = "start s"
    SWITCHES = "idle context switches/s"
    IDLE = "idle CPU %"


# The columns of each table, with the digits of a figure; no table is wider than 100 characters.
SPEED = {Metric.TCP1: 2, Metric.TCP4: 2, Metric.SMALL: 0, Metric.TRIP: 0}
COST = {Metric.CPU1: 2, Metric.OWN1: 2, Metric.CPU4: 2, Metric.OWN4: 2}
TROUBLE = {Metric.AGAIN1: 0, Metric.AGAIN4: 0, Metric.TRIP_P99: 0}
PROCESS = {Metric.RSS: 0, Metric.PSS: 0, Metric.START: 2, Metric.SWITCHES: 0, Metric.IDLE: 0}


class Figure(NamedTuple):
    """One measurement."""

    topology: str
    variant: str
    metric: str
    turn: int
    value: float


class Limit(NamedTuple):
    """What a variant's figure, or its ratio to that of `base`, must reach; with `most`, what it must not exceed."""

    variant: str
    base: str
    metric: Metric
    topology: Topology
    bound: float
    most: bool = False

    def __str__(self) -> str:
        """Name the figure."""
        who = f"{self.variant} / {self.base}" if self.base else self.variant
        return ", ".join([who, self.metric, *([self.topology] if self.topology else [])])


def _limits() -> Iterator[Limit]:
    tcp = (Metric.TCP1, Metric.TCP4)
    nodes, pods, nic, none = Topology.NODES, Topology.PODS, Topology.NIC, Topology.NONE
    yield from (Limit("batched", FLANNEL, metric, where, 5) for where, metric in product((nodes, pods), tcp))
    yield from (Limit("batched", FLANNEL, metric, nic, 3.5) for metric in tcp)
    yield Limit("batched", FLANNEL, Metric.SMALL, nodes, 3.5)
    yield Limit("batched", FLANNEL, Metric.CPU1, nodes, 0.2, most=True)
    yield Limit("batched", FLANNEL, Metric.TRIP, nodes, 1.3, most=True)
    yield Limit("batched", VXLAN, Metric.TCP1, nodes, 0.4)
    yield from (Limit("ebpf", FLANNEL, metric, nodes, 12) for metric in tcp)
    yield Limit("ebpf", VXLAN, Metric.TCP1, nodes, 0.95)
    yield Limit("ebpf", VXLAN, Metric.TCP4, nodes, 0.8)
    yield from (Limit("ebpf", VXLAN, metric, pods, 1.1) for metric in tcp)
    yield Limit("ebpf", VXLAN, Metric.CPU1, nodes, 1.1, most=True)
    yield Limit("ebpf", VXLAN, Metric.TRIP, nodes, 1.05, most=True)
    yield from (Limit("simple", FLANNEL, metric, nodes, 0.7) for metric in (*tcp, Metric.SMALL))
    for variant in FORWARDERS:
        yield Limit(variant, "", Metric.RSS, none, 60, most=True)
        yield Limit(variant, "", Metric.START, none, 0.3, most=True)
        yield Limit(variant, "", Metric.SWITCHES, none, 0, most=True)


LIMITS = tuple(_limits())


def rounds(figures: Iterable[Figure], topology: str, variant: str, metric: str) -> dict[int, float]:
    """Return a variant's figure of each round that has one."""
    wanted = (topology, variant, metric)
    return {figure.turn: figure.value for figure in figures if figure[:3] == wanted}


def find(figures: Sequence[Figure], limit: Limit) -> Spread | None:
    """Return the figure, or ratio, that a limit is about; None where it was not measured."""
    ours = rounds(figures, limit.topology, limit.variant, limit.metric)
    if not limit.base:
        return spread(ours.values()) if ours else None
    theirs = rounds(figures, limit.topology, limit.base, limit.metric)
    return ratio(ours, theirs) if ours.keys() & theirs.keys() else None


def verdicts(figures: Sequence[Figure], limits: Iterable[Limit] = LIMITS) -> str:
    """Return the table of the limits of what was measured; also where that could not be compared."""
    rows = []
    for limit in limits:
        bound = f"at {'most' if limit.most else 'least'} {limit.bound:g}"
        if found := find(figures, limit):
            kept = found.median <= limit.bound if limit.most else found.median >= limit.bound
            rows.append([str(limit), found.text(), bound, "met" if kept else "MISSED"])
        elif rounds(figures, limit.topology, limit.variant, limit.metric):
            rows.append([str(limit), f"no {limit.base}", bound, "unknown"])
    return table(["figure", "measured", "limit", "verdict"], rows)


def figure_table(figures: Sequence[Figure], topology: str, columns: Mapping[Metric, int]) -> str:
    """Return the table of some metrics: a row for each variant, in the order of their first figures."""
    variants = dict.fromkeys(figure.variant for figure in figures if figure.topology == topology)
    measured = {figure.metric for figure in figures if figure.topology == topology}
    shown = {metric: digits for metric, digits in columns.items() if metric in measured}
    rows = []
    for variant in variants:
        columns_of = {metric: rounds(figures, topology, variant, metric).values() for metric in shown}
        if any(columns_of.values()):
            cells = [spread(found).text(shown[metric]) if found else "-" for metric, found in columns_of.items()]
            rows.append([variant, *cells])
    return table(["", *shown], rows) if rows else ""
