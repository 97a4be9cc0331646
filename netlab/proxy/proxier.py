"""What every mode of kube-proxy does for one node, in each of its IP versions.

A proxier remembers what it was told and what it wrote, so a change costs what the changed ports cost. It has no clock
and no thread: its owner calls it, waits on `fileno`, and calls `tick` when the time that it named has come. Opened and
used by one thread at a time; which namespace that thread is in does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from netlab.service.model import ProxyNode, ServicePort
from netlab.topology.addresses import Network
from netlab.topology.service import Protocol as Layer4

PortKey = tuple[str, str, str, Layer4, int]  # ServicePort.key; the last one is the IP version
Changes = Mapping[PortKey, ServicePort | None]  # None: this port is gone


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen for a lab's proxiers, as kube-proxy's flags do.

    `tool`: "iptables", "iptables-legacy" or "iptables-nft" for every rule that iptables writes; empty takes the one
    whose rules the node has, or else the machine's default. `service_cidrs`: addresses in them that no Service has are
    dropped in mode nftables. `scheduler` and `strict_arp` (a node answers ARP for an interface's own addresses
    only, which MetalLB wants) are of mode ipvs.
    """

    tool: str = ""
    service_cidrs: tuple[Network, ...] = ()
    localhost_node_ports: bool = True
    tcp_be_liberal: bool = False
    scheduler: str = "rr"
    strict_arp: bool = False


@dataclass(frozen=True, slots=True)
class NodeTarget:
    """A node to write rules for: its namespace, its name in endpoints, and one ProxyNode per IP version.

    `inode` is the namespace's identity: a name can come to mean another one, which has no rules yet.
    """

    netns: str
    name: str
    nodes: tuple[ProxyNode, ...]
    options: Options = field(default_factory=Options)
    inode: int = 0


class Proxier(Protocol):
    """One node's rules in one mode. Made without touching the kernel, whatever an earlier one left there.

    Every method that writes raises ProgramError or KernelError. What failed is written anew by the next `sync`, or by
    `tick` where none comes. A port of an IP version that the node does not have is left out.
    """

    def sync(self, changes: Changes) -> None:
        """Write ports that changed. The first one makes what stands without a Service too, and ends what is stale."""

    def resync(self) -> None:
        """Write everything anew, whatever the kernel has."""

    def is_intact(self) -> bool:
        """Say whether what was written is still there. Cheap while nothing else has changed the node's rules.

        But for one of `watch.LOOKS` calls where the kernel tells nobody of changes: it lists everything.
        """

    def fileno(self) -> int | None:
        """Return what becomes readable when rules of the node change, for `is_intact` to look; None: ask it by time."""

    def tick(self, now: float) -> float | None:
        """Do work that was put off (`now` from time.monotonic), and return when to come again; None: not needed."""

    def remove(self) -> None:
        """Take every rule away again, with what other rules need of it. The proxier is closed then."""

    def close(self) -> None:
        """Leave the rules where they are and let go of sockets."""
