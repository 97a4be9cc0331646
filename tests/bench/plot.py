"""A picture of `bench datapath`: what user space costs, in four panels of bars, from node to node."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.bench.figures import Figure, Metric, Topology

PANELS = (Metric.TCP1, Metric.OWN1, Metric.SMALL, Metric.TRIP)
TITLES = {
    Metric.TCP1: "TCP, one stream: Gbit/s",
    Metric.OWN1: "the forwarders' processor time: s/GB",
    Metric.SMALL: "64-byte UDP packets received: thousands/s",
    Metric.TRIP: "round trip: microseconds",
}
IN_USER_SPACE, IN_THE_KERNEL = "#c2571a", "#3b6ea5"


def draw(figures: Sequence[Figure], file: str) -> None:
    """Write a picture whose format the file's name says: png, svg or pdf. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [figure for figure in figures if figure.topology == Topology.NODES]
    canvas, axes = pyplot.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for axis, metric in zip(axes.flat, PANELS, strict=True):
        samples: dict[str, list[float]] = {}
        for figure in shown:
            if figure.metric == metric:
                samples.setdefault(figure.variant, []).append(figure.value)
        names = list(samples)
        heights = [median(values) for values in samples.values()]
        spread = [
            [height - min(values) for height, values in zip(heights, samples.values(), strict=True)],
            [max(values) - height for height, values in zip(heights, samples.values(), strict=True)],
        ]
        colours = [IN_THE_KERNEL if name in ("veth", "vxlan", "ebpf") else IN_USER_SPACE for name in names]
        bars = axis.bar(names, heights, yerr=spread, color=colours, capsize=3, error_kw={"linewidth": 0.8})
        axis.bar_label(bars, [f"{height:.3g}" for height in heights], padding=3, fontsize=8)
        axis.set_title(TITLES[metric], fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.15)
    canvas.suptitle("The UDP overlay, node to node: in user space (orange), in the kernel (blue)", fontsize=11)
    canvas.savefig(file, dpi=110)
    pyplot.close(canvas)
