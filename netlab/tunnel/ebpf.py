"""The programs in the kernel as a forwarder: they carry what they can, and the batched loop carries the rest.

This process loads them (fastpath.py) and tells them what it is told: the peers, how long a packet may be on the path to
each, and which pod is behind which port of the bridge. Otherwise it sleeps, until a packet is passed up.
"""

from __future__ import annotations

from collections.abc import Callable

from netlab.tunnel.config import Config
from netlab.tunnel.endpoint import Endpoint
from netlab.tunnel.fastpath import Count, FastPath
from netlab.tunnel.maps import Counter
from netlab.tunnel.packet import Drop
from netlab.tunnel.paths import Paths
from netlab.tunnel.ports import Ports


class KernelForwarder:
    """The programs of one node and what they are told. They end with this process."""

    def __init__(self, end: Endpoint, config: Config) -> None:
        """Attach the programs beside an open end. Raises KernelError where the kernel refuses."""
        self._end = end
        self._ports = Ports(config.bridge, (config.uplink, config.device))
        self._paths = Paths(config.uplink, config.port)
        try:
            self._path = FastPath.attach(
                None,
                config.device,
                config.uplink,
                local=config.local,
                port=config.port,
                peers=end.routes.peers,
                bridge=config.bridge,
            )
        except BaseException:
            self._ports.close()
            self._paths.close()
            raise
        self._path.set_peers(end.routes.peers, self._paths.mtu)
        self._path.set_ports(self._ports.entries())
        self._counted = dict.fromkeys(Counter, Count(0, 0, 0))

    @property
    def ways(self) -> dict[int, Callable[[], None]]:
        """Return descriptors to look at, and what to do when they can be read."""
        return {self._ports.fileno(): self._look_at_ports, self._paths.fileno(): self._look_at_paths}

    def _look_at_ports(self) -> None:
        """Follow the bridge and the links. Raises KernelError when an interface has gone."""
        if self._ports.take_news():
            self._path.set_ports(self._ports.entries())
            self._path.set_peers(self._end.routes.peers, self._paths.mtu)

    def _look_at_paths(self) -> None:
        if self._paths.take_news():
            self._path.set_peers(self._end.routes.peers, self._paths.mtu)

    def follow(self) -> None:
        """Take in the peers that the end has been told, and count what the programs have done since the last time."""
        self._path.set_peers(self._end.routes.peers, self._paths.mtu)
        counters, now = self._end.counters, self._path.counters()
        for counter, count in ((counter, self._since(counter, now[counter])) for counter in Counter):
            match counter:
                case Counter.SENT:
                    counters.sent(count.bytes, count.packets, count.batches)
                case Counter.RECEIVED:
                    counters.received(count.bytes, count.packets, count.batches)
                case Counter.DROPPED:
                    counters.dropped(Drop.REFUSED, count.packets)
        self._counted = now

    def _since(self, counter: Counter, now: Count) -> Count:
        before = self._counted[counter]
        return Count(now.packets - before.packets, now.bytes - before.bytes, now.batches - before.batches)
