"""A picture of `bench first-packet`: what grows with the Services, and why."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from tests.bench.first_packet_figures import BARE, MICRO, PLACES, RANDOM, RATE, Figure, cases, more, of

COLOURS = {
    BARE: "#888888",
    "iptables-legacy": "#c2571a",
    "iptables-nft": "#d9a441",
    "nftables": "#3b6ea5",
    "ipvs": "#4c8c4a",
}
TICKS = [digit * 10**power for power in range(1, 6) for digit in (1, 2, 5)]  # microseconds


def draw(figures: Sequence[Figure], file: str) -> None:
    """Write a picture whose format the file's name says: png, svg or pdf. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    canvas, (latency, rate, places) = pyplot.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    _latency(latency, figures)
    _rate(rate, figures)
    _places(places, figures)
    for axis in (latency, rate, places):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", linewidth=0.3)
    canvas.legend(*latency.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    canvas.suptitle("A new connection through a ClusterIP, by proxy mode", fontsize=12)
    canvas.savefig(file, dpi=110)
    pyplot.close(canvas)


def _sizes(figures: Sequence[Figure]) -> dict[str, list[int]]:
    sizes: dict[str, list[int]] = {}
    for variant, size in cases(figures):
        sizes.setdefault(variant, []).append(size)
    return sizes


def _latency(axis: Any, figures: Sequence[Figure]) -> None:
    shown: list[float] = []
    for variant, sizes in _sizes(figures).items():
        for rank, style in (("p50", "o-"), ("p99", "o--")):
            values = [median(of(figures, size, variant, RANDOM, rank).values()) * MICRO for size in sizes]
            shown += values
            label = variant if rank == "p50" else None
            axis.plot(sizes, values, style, color=COLOURS[variant], label=label, markersize=4, linewidth=1.4)
    _by_services(axis, "first packet, SYN to SYN/ACK: microseconds", "p50 solid, p99 dashed", figures)
    axis.set_yscale("log")
    ticks = [tick for tick in TICKS if min(shown) / 2 < tick < max(shown) * 2]
    axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_yticks([], minor=True)


def _rate(axis: Any, figures: Sequence[Figure]) -> None:
    for variant, sizes in _sizes(figures).items():
        values = [median(of(figures, size, variant, RANDOM, RATE).values()) / 1e3 for size in sizes]
        axis.plot(sizes, values, "o-", color=COLOURS[variant], markersize=4, linewidth=1.4)
    _by_services(axis, "new connections: thousands/s", "one client process", figures)
    axis.set_ylim(bottom=0)


def _by_services(axis: Any, title: str, note: str, figures: Sequence[Figure]) -> None:
    sizes = sorted({figure.size for figure in figures})
    axis.set_xscale("log")
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
    axis.set_xticks([], minor=True)
    axis.set_xlabel(f"services ({note})", fontsize=9)
    axis.set_title(title, fontsize=10, loc="left")


def _places(axis: Any, figures: Sequence[Figure]) -> None:
    """Draw the largest size: rules that are tried one after the other cost by place, a lookup does not."""
    largest = max(figure.size for figure in figures)
    for variant, sizes in _sizes(figures).items():
        if variant != BARE and largest in sizes:
            values = [more(figures, largest, variant, place, "p50").median * MICRO for place in PLACES]
            axis.plot(PLACES, values, "o-", color=COLOURS[variant], markersize=4, linewidth=1.4)
    axis.set_title(f"{largest:,} services, p50 above {BARE}: microseconds", fontsize=10, loc="left")
    axis.set_xlabel("whose rule is tried first, in the middle, last; none (pod)", fontsize=9)
    axis.set_ylim(bottom=0)
