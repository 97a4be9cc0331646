"""The boundary between deciding and doing: what a kernel can be asked. LinuxKernel and FakeKernel keep one contract.

Contract (tests/contract.py runs it on both): along any path of desired plans,
`apply(diff(observe(lab, plan), plan))` makes `observe(lab, plan).objects == plan.objects`, and the next diff is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from netlab.plan.diff import Op
from netlab.plan.objects import Kept, Netns, Objects, State

Placed = tuple[Netns, Kept]


class Processes(Protocol):
    """Keeps the processes of one lab (`supervisor.client` is the real one)."""

    def observe(self) -> Objects:
        """Return the processes that are as they should be, by namespace."""

    def change(self, *, stop: Iterable[Placed], start: Iterable[Placed]) -> None:
        """Stop and start processes; all others run on undisturbed."""

    def stop(self) -> None:
        """End every process of the lab."""


class Kernel(Protocol):
    """Observes and changes the namespaces of labs."""

    def observe(self, lab: str, like: Objects) -> State:
        """Return what a lab has. `like` names the sysctls and rule tables to read: they have no owner's mark."""

    def apply(self, ops: Iterable[Op], progress: Callable[[int], None]) -> None:
        """Carry out operations in the order given, telling how many more are done. Raises KernelError at a failure."""

    def remove(self, lab: str) -> list[str]:
        """Take every namespace and process of a lab away; return the processes of others that are left inside."""
