"""One IP version of a node in nftables mode: what is wanted, what was written, and the text between. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from netlab.proxy.proxier import Changes, PortKey
from netlab.service.model import ProxyNode, ServicePort
from netlab.service.nftables import PortObjects, join, render
from netlab.service.nftables_table import Base, Kept, change, full

ServiceKey = tuple[str, str]  # namespace, name
Claim = tuple[str, str]  # set or map, key


class TableObjects:
    """The table of a node in one IP version. Until `accept` says that a text was taken, what was written is unknown.

    `stale` are chains that were emptied, for a later transaction to delete.
    """

    def __init__(self, node: ProxyNode, base: Base) -> None:
        self.name = base.table
        self.version = node.addresses[0].version
        self.wanted: dict[PortKey, ServicePort] = {}
        self.stale: dict[str, None] = {}
        self._node = node
        self._base = base
        self._services: dict[ServiceKey, dict[PortKey, PortObjects]] = defaultdict(dict)
        self._claims: Counter[Claim] = Counter()  # how many Services have an element
        self._changed: dict[ServiceKey, dict[PortKey, None]] = defaultdict(dict)
        self._is_known = self._is_accepted = False

    @property
    def is_known(self) -> bool:
        """Whether the kernel has what was written, so that a change of it is enough."""
        return self._is_known

    @property
    def is_pending(self) -> bool:
        """Whether something is to be written."""
        return bool(self._changed) or not self._is_known

    def forget(self) -> None:
        """Hold that nobody knows what the kernel has."""
        self._is_known = False

    def take(self, changes: Changes) -> None:
        """Learn what is wanted from now on."""
        for key, port in changes.items():
            if port:
                self.wanted[key] = port
            else:
                self.wanted.pop(key, None)
            self._changed[key[:2]][key] = None

    @property
    def has_affinity(self) -> bool:
        """Whether a Service that is wanted keeps its clients with their endpoints."""
        return any(port.affinity for port in self.wanted.values())

    def full(self, kept: Mapping[str, Kept] | None = None) -> str:
        """Return the text that makes the table anew, with the affinity that was kept."""
        self._is_known = False
        self._services.clear()
        self._claims.clear()
        self.stale.clear()
        for key, port in self.wanted.items():
            self._services[key[:2]][key] = render(port, self._node)
        for ports in self._services.values():
            self._claims.update(_claims(ports.values()))
        return full(self._base, self._objects(self._services), kept)

    def partial(self) -> str | None:
        """Return the text that turns what changed since the last one; None where Services claim one element.

        Then the whole has to be written.
        """
        before = join(self._objects(self._changed))
        self._is_known = False
        if self._replace():
            return None
        after = join(self._objects(self._changed))
        text, stale = change(before, after)
        for name in after.chains if after else ():
            self.stale.pop(name, None)
        self.stale |= dict.fromkeys(stale)
        return text

    def accept(self) -> None:
        """Hold that the kernel took the last text."""
        self._is_known = True
        self._changed.clear()

    def _replace(self) -> bool:
        """Render what changed; say whether one of its elements is, or was, of another Service too."""
        conflict = False
        for service, keys in self._changed.items():
            ports = self._services[service]
            for held in (False, True):
                if held:
                    for key in keys:
                        ports.pop(key, None)
                    ports.update({key: render(self.wanted[key], self._node) for key in keys if key in self.wanted})
                claims = _claims(ports.values())
                conflict |= not held and any(self._claims[claim] > 1 for claim in claims)
                (self._claims.update if held else self._claims.subtract)(claims)
            if not ports:
                del self._services[service]
        for service in self._changed:
            conflict |= any(self._claims[claim] > 1 for claim in _claims(self._ports(service)))
        return conflict

    def _ports(self, service: ServiceKey) -> Iterable[PortObjects]:
        return self._services[service].values() if service in self._services else ()

    def _objects(self, services: Iterable[ServiceKey]) -> Iterator[PortObjects]:
        return (port for service in services for port in self._ports(service))


def _claims(ports: Iterable[PortObjects]) -> set[Claim]:
    """Return the elements of one Service; its ports share that of cluster-ips."""
    return {(name, key) for port in ports for name, pairs in port.elements.items() for key, _ in pairs}
