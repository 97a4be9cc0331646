"""A lab as it was last brought up: who is in it, where they are, which addresses they have.

Commands that look and do not change (`trace`, `capture`) need no more than this: `netlab.lab` brings the planner along,
which takes longer to load than a packet takes to be traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, TypeVar

from netlab import names
from netlab.errors import UsageError
from netlab.folder import LabFolder, known_labs
from netlab.kernel import netns
from netlab.store.store import Snapshot
from netlab.topology.model import Address, Topology
from netlab.topology.system import with_system

if TYPE_CHECKING:
    from netlab.kernel.enter import Place

L = TypeVar("L", bound="FoundLab")


class FoundLab:
    """One lab: a topology and its folder."""

    def __init__(self, topology: Topology, source: str = "") -> None:
        self.topology = with_system(topology)
        self.source = source
        self.folder = LabFolder(topology.name)

    @classmethod
    def find(cls: type[L], name: str) -> L | None:
        """Return the lab of that name if it was brought up and its folder is whole."""
        record = LabFolder(name).find_record()
        return cls(record.topology, record.source) if record else None

    @property
    def name(self) -> str:
        """Return the lab's name."""
        return self.topology.name

    @property
    def snapshot(self) -> Snapshot:
        """Return the allocations, as the last `up` made them."""
        held = self.folder.store.read()
        if held.covers(self.topology):
            return held
        from netlab.store.allocate import allocate

        return allocate(self.topology, held)

    def netns(self, member: str) -> str:
        """Return the namespace of a node, router or pod (its node's, for hostNetwork). Raises UsageError."""
        pod = self.topology.find_pod(member)
        if pod and pod.host_network:
            return names.netns(self.name, pod.node)
        if pod or member in self.topology.members():
            return names.netns(self.name, member)
        raise UsageError(
            f"lab {self.name} has no pod, node or router {member!r}", _suggest(member, self.topology.members())
        )

    def addresses(self, member: str, snapshot: Snapshot | None = None) -> tuple[Address, ...]:
        """Return a member's addresses; a router's are those of all its interfaces. Raises UsageError."""
        from netlab.plan.underlay import router_addresses

        snapshot = snapshot or self.snapshot
        pod = self.topology.find_pod(member)
        holder = pod.node if pod and pod.host_network else member
        if holder in snapshot.leases:
            return snapshot.leases[holder].public_ips
        if holder in snapshot.pods or holder in snapshot.machines:
            return snapshot.pods.get(holder) or snapshot.machines[holder]
        self.netns(member)  # refuses a name that is not there
        return tuple(router_addresses(self.topology, member))

    def address(self, member: str) -> str:
        """Return a member's first address."""
        return str(self.addresses(member)[0])

    def place(self, member: str) -> Place:
        """Return where a command in a member runs: in a pod with its first container's variables. Raises UsageError."""
        from netlab.kernel.enter import Place
        from netlab.plan.build import variables
        from netlab.plan.etc import etc_files

        snapshot, pod = self.snapshot, self.topology.find_pod(member)
        files = etc_files(self.topology, snapshot, member)
        env = {"NETLAB_LAB": self.name, "NETLAB_MEMBER": member}
        if pod and pod.containers:
            env |= dict(variables(snapshot, pod, pod.containers[0]))
        hostname = pod.node if pod and pod.host_network else member
        return Place(self.netns(member), files.hosts, files.resolv_conf, hostname, env)

    def exec(
        self, member: str, argv: Sequence[str], *, stdin: str | None = None, timeout: float | None = None
    ) -> CompletedProcess[str]:
        """Run a command in a pod, node or router and return its output and exit status."""
        from netlab.kernel import enter

        return enter.run(argv, self.place(member), stdin=stdin, timeout=timeout)


def labs() -> list[str]:
    """List every lab that has a namespace or a folder, sorted."""
    return sorted({*labs_in_kernel(), *known_labs()})


def labs_in_kernel() -> set[str]:
    """Return the labs that have namespaces here."""
    owners = (names.find_owner(name) for name in netns.names(names.PREFIX))
    return {owner.lab for owner in owners if owner}


def _suggest(wrong: str, right: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(wrong, list(right), n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""
