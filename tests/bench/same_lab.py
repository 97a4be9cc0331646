"""Ends with status 0 when what is up is netlab's lab to the last object: `python -m tests.bench.same_lab PODS`.

Whoever builds "the same lab" by other means is held to it, so that the ratios compare like with like.
"""

from __future__ import annotations

import sys

from netlab.kernel.linux import LinuxKernel
from netlab.plan.diff import diff
from netlab.plan.text import commands
from tests.bench.labs import LAB, one_node
from tests.bench.recipe import objects_of


def main(pods: int) -> None:
    """Compare what is there with the plan; what is missing or too much is told as commands."""
    wanted = objects_of(one_node(pods))
    state = LinuxKernel().observe(LAB, wanted)
    differing = [*commands(diff(state.objects, wanted)), *map(str, state.foreign.values())]
    if differing:
        sys.exit("not netlab's lab; the difference is\n" + "\n".join(differing[:8]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
