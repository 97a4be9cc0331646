"""The main flow on one page: load, allocate, build, observe, diff, apply.

This is also the Python API:

    from netlab import Lab

    with Lab.load("topologies/vxlan-3.yaml") as lab:          # up, and down at the end
        print(lab.exec("web-1", ["ping", "-c1", lab.address("web-2")]).stdout)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType

from netlab import names
from netlab.errors import KernelError, UsageError
from netlab.folder import LabFolder, Record, known_labs
from netlab.kernel.linux import LinuxKernel, no_progress
from netlab.plan.build import build
from netlab.plan.diff import Op, diff
from netlab.plan.objects import Netns, Objects, Plan, State
from netlab.store.store import Snapshot
from netlab.topology.model import Topology

LOCK_WAIT = 30.0  # seconds for another netlab to finish with the lab
ROUNDS = 3  # a change can have side effects in the kernel, which the next round mends


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `up` did or would do: operations in order (none when nothing differed), the plan, seconds in the kernel."""

    ops: tuple[Op, ...]
    plan: Plan
    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """A lab as it is: what should be, what is, and the operations that lie between them (drift)."""

    plan: Plan
    state: State
    drift: tuple[Op, ...]


class Lab:
    """One lab: a topology, its folder, and the kernel that it lives in."""

    def __init__(self, topology: Topology, source: str = "") -> None:
        self.topology = topology
        self.source = source
        self.folder = LabFolder(topology.name)
        self._kernel = LinuxKernel(self.folder.runtime)

    @classmethod
    def load(cls, file: str | Path, *, backend: str | None = None, name: str | None = None) -> Lab:
        """Make a lab of a topology file. Raises TopologyError with every mistake in it."""
        from netlab.topology.load import load

        return cls(load(file, backend=backend, name=name), str(Path(file).absolute()))

    @classmethod
    def loads(cls, text: str, *, name: str | None = None) -> Lab:
        """Make a lab of a topology in a string."""
        from netlab.topology.load import load_text

        return cls(load_text(text, name=name))

    @classmethod
    def find(cls, name: str) -> Lab | None:
        """Return the lab of that name if it was brought up and its folder is whole."""
        record = LabFolder(name).find_record()
        return cls(record.topology, record.source) if record else None

    @property
    def name(self) -> str:
        """Return the lab's name."""
        return self.topology.name

    # --- the flow ---

    def up(
        self,
        *,
        dry_run: bool = False,
        wait: float = LOCK_WAIT,
        begin: Callable[[int], None] = no_progress,
        progress: Callable[[int], None] = no_progress,
    ) -> Outcome:
        """Make the lab what its topology says; nothing that is right already is touched.

        `begin` is told how many operations there are, `progress` how many more are done.
        """
        started = time.monotonic()
        if dry_run:
            return self._plan_only(started)
        with self.folder.lock(wait):
            plan = self._acquire()
            state = self._kernel.observe(self.name, plan.objects)
            ops = first = diff(state.objects, plan.objects)
            begin(len(ops))
            fresh = not state.objects
            for _ in range(ROUNDS):
                self._kernel.apply(ops, progress)
                if fresh or not ops:
                    break
                ops = diff(self._kernel.observe(self.name, plan.objects).objects, plan.objects)
            return Outcome(tuple(first), plan, time.monotonic() - started)

    def _acquire(self) -> Plan:
        """Allocate addresses and record the topology, so that whatever follows can be finished or taken away."""
        snapshot = self.folder.store.acquire(self.topology)
        self.folder.write_record(Record(self.topology, self.source))
        return build(self.topology, snapshot)

    def _plan_only(self, started: float) -> Outcome:
        from netlab.topology.allocate import allocate

        plan = build(self.topology, allocate(self.topology, self.folder.store.read()))
        state = self._kernel.observe(self.name, plan.objects)
        return Outcome(tuple(diff(state.objects, plan.objects)), plan, time.monotonic() - started)

    def down(self, *, wait: float = LOCK_WAIT) -> bool:
        """Take the lab away with everything in it; say whether there was anything."""
        return remove(self.name, wait=wait)

    def status(self) -> Status:
        """Compare the lab with what it should be."""
        plan = build(self.topology, self.snapshot)
        state = self._kernel.observe(self.name, plan.objects)
        return Status(plan, state, tuple(diff(state.objects, plan.objects)))

    # --- what is in it ---

    @property
    def snapshot(self) -> Snapshot:
        """Return the allocations, as the last `up` made them."""
        held = self.folder.store.read()
        if held.covers(self.topology):
            return held
        from netlab.topology.allocate import allocate

        return allocate(self.topology, held)

    def netns(self, member: str) -> Netns:
        """Return the namespace of a node, router or pod (its node's, for hostNetwork). Raises UsageError."""
        pod = self.topology.find_pod(member)
        if pod and pod.host_network:
            return names.netns(self.name, pod.node)
        if pod or member in self.topology.members():
            return names.netns(self.name, member)
        raise UsageError(
            f"lab {self.name} has no pod, node or router {member!r}", _suggest(member, self.topology.members())
        )

    def address(self, member: str, version: int | None = None) -> str:
        """Return a pod's or machine's address, the first one or that of an IP version."""
        snapshot = self.snapshot
        pod = self.topology.find_pod(member)
        holder = pod.node if pod and pod.host_network else member
        lease = snapshot.leases.get(holder)
        found = snapshot.pods.get(holder) or snapshot.machines.get(holder) or (lease.public_ips if lease else ())
        for address in found:
            if version in (None, address.version):
                return str(address)
        raise UsageError(f"{member} has no IPv{version or ''} address in lab {self.name}")

    def exec(self, member: str, argv: Sequence[str], *, timeout: float | None = None) -> CompletedProcess[str]:
        """Run a command in a pod, node or router and return its output and exit status."""
        from netlab.kernel import enter

        return enter.run(argv, place=self.place(member), timeout=timeout)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def remove(name: str, *, wait: float = LOCK_WAIT) -> bool:
    """Take a lab away by its name alone; say whether there was anything. Needs nothing of its folder."""
    folder = LabFolder(name)
    existed = name in known_labs()
    with folder.lock(wait):
        kernel = LinuxKernel(folder.runtime)
        existed |= name in kernel.labs()
        kernel.remove(name)
        folder.forget()
    return existed


def labs() -> list[str]:
    """List every lab that has a namespace or a folder, sorted."""
    return sorted({*LinuxKernel(Path(os.devnull)).labs(), *known_labs()})


def _suggest(wrong: str, right: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(wrong, list(right), n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def require_up(status: Status, name: str) -> None:
    """Raise KernelError when the lab has no namespaces at all."""
    if not status.state.objects:
        raise KernelError(None, f"lab {name}", "it is not up", "run `netlab up`")
