"""netlab's own work in the kernel and nothing else: `python -m tests.bench.in_kernel PODS` prints its two times."""

from __future__ import annotations

import json
import sys
import time

from netlab.kernel.linux import LinuxKernel
from netlab.plan.diff import diff
from tests.bench.labs import LAB, one_node
from tests.bench.recipe import objects_of


def main(pods: int) -> None:
    """Make the lab and take it away."""
    ops = diff({}, objects_of(one_node(pods)))
    kernel = LinuxKernel()
    started = time.perf_counter()
    kernel.apply(ops)
    made = time.perf_counter()
    kernel.remove(LAB)
    print(json.dumps({"up": made - started, "down": time.perf_counter() - made}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
