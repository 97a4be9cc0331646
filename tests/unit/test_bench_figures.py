"""What `bench datapath` makes of its figures, and what it tells flannel's proxy."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from netlab.tunnel.config import Config
from netlab.tunnel.routes import Peer
from tests.bench.figures import (
    COST,
    LIMITS,
    PROCESS,
    SPEED,
    TROUBLE,
    Figure,
    Limit,
    Metric,
    Topology,
    figure_table,
    find,
    rounds,
    verdicts,
)
from tests.bench.flannel import arguments
from tests.bench.report import Spread

NODES, PODS = Topology.NODES, Topology.PODS


def figures(variant: str, *values: float, metric: Metric = Metric.TCP1, topology: Topology = NODES) -> list[Figure]:
    """Return one figure for each round."""
    return [Figure(topology, variant, metric, turn, value) for turn, value in enumerate(values)]


def test_figures_of_other_metrics_variants_and_topologies_are_kept_apart() -> None:
    mixed = [
        *figures("batched", 1, 2),
        *figures("simple", 3),
        *figures("batched", 4, metric=Metric.TCP4),
        *figures("batched", 5, topology=PODS),
    ]
    assert rounds(mixed, NODES, "batched", Metric.TCP1) == {0: 1, 1: 2}


def test_a_limit_of_a_ratio_is_judged_by_the_middle_of_the_rounds() -> None:
    limit = Limit("batched", "flannel", Metric.TCP1, NODES, 5)
    found = [*figures("batched", 4, 10, 18), *figures("flannel", 1, 2, 3)]
    assert find(found, limit) == Spread(4, 5, 6)
    assert str(limit) == "batched / flannel, TCP 1 Gbit/s, node to node"


def test_a_round_that_one_of_the_two_lacks_is_left_out() -> None:
    limit = Limit("batched", "flannel", Metric.TCP1, NODES, 5)
    found = [*figures("batched", 4, 10, 18), *figures("flannel", 1, 2)]
    assert find(found, limit) == Spread(4, 4.5, 5)
    assert find(figures("batched", 4), limit) is None
    assert find(figures("flannel", 4), limit) is None
    assert find([Figure(NODES, "batched", Metric.TCP1, 1, 4), *figures("flannel", 4)], limit) is None


@pytest.mark.parametrize(
    ("value", "most", "verdict"),
    [(5, False, "met"), (4.9, False, "MISSED"), (5.1, True, "MISSED"), (5, True, "met"), (0, True, "met")],
)
def test_a_verdict_knows_which_side_is_good(value: float, most: bool, verdict: str) -> None:
    limit = Limit("simple", "", Metric.START, Topology.NONE, 5, most=most)
    *_, row = verdicts(figures("simple", value, metric=Metric.START, topology=Topology.NONE), [limit]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["simple, start s", f"{value:.2f}", f"at {'most' if most else 'least'} 5", verdict]


def test_a_limit_without_the_other_side_is_told_so() -> None:
    limits = [Limit("batched", "flannel", Metric.TCP1, NODES, 5), Limit("ebpf", "flannel", Metric.TCP1, NODES, 12)]
    *_, row = verdicts(figures("batched", 1), limits).splitlines()
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["no flannel", "at least 5", "unknown"]
    assert len(verdicts(figures("flannel", 1), limits).splitlines()) == 2


def test_every_limit_has_a_verdict_once_everything_is_measured_and_none_before() -> None:
    everything = [
        Figure(topology, variant, metric, 0, 1.0)
        for topology in Topology
        for variant in ("flannel", "vxlan", "simple", "batched", "ebpf")
        for metric in Metric
    ]
    assert len(verdicts(everything).splitlines()) == len(LIMITS) + 2
    assert len(verdicts([]).splitlines()) == 2
    assert len(set(LIMITS)) == len({str(limit) for limit in LIMITS}) == len(LIMITS)


def test_a_table_has_the_metrics_and_variants_that_were_measured() -> None:
    found = [*figures("veth", 10, 20), *figures("batched", 4), *figures("batched", 0.5, metric=Metric.TCP4)]
    assert figure_table(found, NODES, SPEED).splitlines() == [
        "|         |        TCP 1 Gbit/s | TCP 4 Gbit/s |",
        "|---------|--------------------:|-------------:|",
        "| veth    | 15.00 (10.00-20.00) |            - |",
        "| batched |                4.00 |         0.50 |",
    ]
    assert figure_table(found, NODES, PROCESS) == figure_table(found, PODS, SPEED) == ""


def test_no_table_is_wider_than_a_page() -> None:
    rows = [
        Figure(topology, "flannel", metric, turn, value)
        for topology in Topology
        for metric in Metric
        for turn, value in enumerate((11.11, 22.22, 33.33))
    ]
    rows += [row._replace(topology=NODES, value=row.value * 1000) for row in rows if row.metric in TROUBLE]
    tables = [figure_table(rows, NODES, columns) for columns in (SPEED, COST, TROUBLE, PROCESS)]
    assert max(len(line) for table in [*tables, verdicts(rows)] for line in table.splitlines()) <= 100


def test_flannels_proxy_is_told_what_netlabs_forwarder_is_told() -> None:
    cidrs = (IPv4Network("10.244.2.0/24"), IPv4Network("10.244.3.0/25"))
    config = Config(
        device="flannel0",
        mtu=1472,
        local=IPv4Address("172.18.0.2"),
        port=8285,
        uplink="eth0",
        bridge="cni0",
        source=IPv4Address("10.244.1.0"),
        forwarder="simple",
        peers=(Peer(IPv4Address("172.18.0.3"), cidrs),),
    )
    assert arguments(config) == [
        *("flannel0", "1472", "10.244.1.0", "172.18.0.2", "8285"),
        *("10.244.2.0", "24", "172.18.0.3"),
        *("10.244.3.0", "25", "172.18.0.3"),
    ]
