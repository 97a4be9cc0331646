"""The programs in the kernel as a forwarder: they carry what they can, and the batched loop carries the rest.

This process loads them (fastpath.py) and tells them what it is told: the peers, and which pod is behind which port of
the bridge. Otherwise it sleeps, until a packet is passed up.
"""

from __future__ import annotations

from netlab.tunnel.config import Config
from netlab.tunnel.endpoint import Endpoint
from netlab.tunnel.fastpath import Count, FastPath
from netlab.tunnel.maps import Counter
from netlab.tunnel.packet import Drop
from netlab.tunnel.ports import Ports


class KernelForwarder:
    """The programs of one node and what they are told. They end with this process."""

    def __init__(self, end: Endpoint, config: Config) -> None:
        """Attach the programs beside an open end. Raises KernelError where the kernel refuses."""
        self._end = end
        self._ports = Ports(config.bridge, (config.uplink, config.device))
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
            raise
        self._path.set_ports(self._ports.entries())
        self._counted = dict.fromkeys(Counter, Count(0, 0, 0))

    def fileno(self) -> int:
        """Return the descriptor that can be read when `look` has something to do."""
        return self._ports.fileno()

    def look(self) -> None:
        """Follow the bridge. Raises KernelError when an interface has gone, BlockingIOError when all is done."""
        if self._ports.take_news():
            self._path.set_ports(self._ports.entries())
        raise BlockingIOError

    def follow(self) -> None:
        """Take in the peers that the end has been told, and count what the programs have done since the last time."""
        self._path.set_peers(self._end.routes.peers)
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
