"""`netlab bench`: pod networks beside each other on this machine."""

from __future__ import annotations

import sys

import click

from netlab.cli.common import output_option, print_json
from netlab.cli.tables import print_table
from netlab.errors import NotSupported, UsageError


@click.command("bench")
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="How often each is measured.")
@click.option("--seconds", type=click.FloatRange(0.1, 10), default=1.0, show_default=True, help="How long each time.")
@click.option("--plot", metavar="FILE", help="Also write a picture: png, svg or pdf. Needs matplotlib.")
@output_option
@click.argument("variants", nargs=-1)
def bench_command(rounds: int, seconds: float, plot: str | None, output: str, variants: tuple[str, ...]) -> None:
    """Compare pod networks: the udp backend's forwarders simple, batched and ebpf, and the kernel's vxlan and host-gw.

    A lab of two nodes for each VARIANT (default: all five) is up while they are measured in turn: one TCP stream from
    pod to pod, and a small packet to and fro. Medians; the ratio is to the first one.
    """
    from netlab.bench import compare, figures
    from netlab.kernel.rootless import ensure_privileged

    chosen = variants or compare.VARIANTS
    for variant in chosen:
        if variant not in compare.VARIANTS:
            raise UsageError(f"there is no variant {variant!r}", f"there are {', '.join(compare.VARIANTS)}")
    if plot:
        _require_matplotlib()
    ensure_privileged()
    with compare.labs(chosen) as running:
        said = {name: words for name, lab in running.items() if (words := compare.doing(lab)) and words != name}
        with click.progressbar(length=rounds * len(running), label="measuring", file=sys.stderr) as bar:
            found = compare.compare(running, rounds, seconds, lambda: bar.update(1))
    table = figures.rows(found)
    if output == "json":
        print_json([row._asdict() for row in table])
    else:
        print_table(("POD NETWORK", "GBIT/S", f"/ {chosen[0].upper()}", "ROUND TRIP US", ""), figures.cells(table))
        for name, words in said.items():
            click.echo(f"{name}: {words}")
    if plot:
        figures.draw(table, plot)


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise NotSupported("matplotlib", "--plot", "pip install 'container-netlab[plot]'")
