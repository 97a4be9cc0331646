"""The contract between plans and a kernel, run on the fake one and on the real one (netlab.kernel.kernel)."""

from __future__ import annotations

from collections.abc import Iterable

from netlab.kernel.kernel import Kernel
from netlab.plan.diff import diff
from netlab.plan.objects import Objects


def follow(kernel: Kernel, lab: str, path: Iterable[Objects]) -> None:
    """Take a kernel along a path of desired states and check after each that it is there, exactly."""
    for wanted in path:
        kernel.apply(diff(kernel.observe(lab, wanted).objects, wanted), lambda done: None)
        found = kernel.observe(lab, wanted)
        for netns in wanted:
            have, want = found.objects[netns], wanted[netns]
            assert have == want, (
                f"{netns}: extra {sorted(map(str, have - want))}, missing {sorted(map(str, want - have))}"
            )
        assert found.objects == wanted
        assert not found.foreign
        assert diff(found.objects, wanted) == []
