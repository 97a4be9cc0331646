"""Labs of two nodes that differ in their pod network only, all up at once and measured in turn."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from netlab.bench import traffic
from netlab.bench.figures import Round
from netlab.errors import NetlabError
from netlab.lab import Lab

FORWARDERS = ("simple", "batched", "ebpf")
BACKENDS = ("vxlan", "host-gw")
VARIANTS = (*FORWARDERS, *BACKENDS)
TOPOLOGY = """
proxy: none
nodes: 2
pods: {{from: {{node: n1}}, to: {{node: n2}}}}
backend: {backend}
"""


def topology(variant: str) -> str:
    """Return the topology of a variant: one of the udp backend's forwarders, or another backend."""
    backend = f"{{type: udp, forwarder: {variant}}}" if variant in FORWARDERS else variant
    return TOPOLOGY.format(backend=backend)


@contextmanager
def labs(variants: Sequence[str]) -> Iterator[dict[str, Lab]]:
    """Bring a lab up for each variant, and take them all away at the end. Names do not clash with another run's."""
    with ExitStack() as stack:
        found = {}
        for variant in variants:
            lab = Lab.loads(topology(variant), name=f"bench{os.getpid()}-{variant}")
            found[variant] = stack.enter_context(lab)
            report = lab.check(wait=10.0)
            if not report.ok:
                raise NetlabError(f"{variant}: its pods do not reach each other", "`netlab doctor` may say why")
        yield found


def compare(running: dict[str, Lab], rounds: int, seconds: float, progress: Callable[[], None]) -> list[list[Round]]:
    """Measure every lab once a round, in another order each time."""
    draw = random.Random(1)
    found = []
    for _ in range(rounds):
        order = draw.sample(list(running), len(running))
        results = {}
        for variant in order:
            results[variant] = measure(variant, running[variant], seconds)
            progress()
        found.append([results[variant] for variant in running])
    return found


def measure(variant: str, lab: Lab, seconds: float) -> Round:
    """Measure one lab once."""
    ends = lab.netns("from"), lab.netns("to"), lab.address("to")
    return Round(variant, traffic.gigabits(*ends, seconds), traffic.round_trip(*ends))


def doing(lab: Lab) -> str:
    """Return what a lab's forwarders say that they do; empty where the kernel forwards by itself."""
    return ", ".join(dict.fromkeys(state.said for state in lab.forwarders()))
