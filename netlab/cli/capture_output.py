"""Where captured frames go: `Screen` says them in words, `Pcapng` and `Pcap` write them. Each takes them in batches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Protocol

import click

from netlab import pcapng
from netlab.errors import NetlabError, UsageError
from netlab.kernel.capture import Interface, Packet
from netlab.pcapng import Direction, LinkType
from netlab.vm.pcap import PcapWriter

STANDARD_OUTPUT = "-"
PCAP = ".pcap"
DIRECTIONS = (Direction.INBOUND, Direction.OUTBOUND)  # by whether it went out


class Output(Protocol):
    """What takes frames. Raises BrokenPipeError when nobody wants them any more, and NetlabError."""

    has_reader: bool  # on standard output

    def put(self, packets: Sequence[Packet], interfaces: Sequence[Interface]) -> None:
        """Take frames, which a reader sees at once."""

    def end(self, received: Sequence[int], dropped: Mapping[str, int]) -> None:
        """Take the counts: of frames by interface, and by namespace of those that the kernel had no room for."""


class Screen:
    """Frames in words, on standard output. `names`: what to call namespaces; `several`: say which interface.

    `at_end`: keep them, and print the first `most` of them when all is over.
    """

    def __init__(self, names: Mapping[str, str], *, several: bool, at_end: bool, most: int | None) -> None:
        self.has_reader = not at_end
        self._names, self._several, self._at_end, self._most = names, several, at_end, most
        self._kept: list[tuple[Packet, Interface]] = []
        self._start = 0

    def put(self, packets: Sequence[Packet], interfaces: Sequence[Interface]) -> None:
        """Print frames, inner headers below outer ones."""
        for packet in packets:
            if not self._at_end:
                self._print(packet, interfaces[packet.interface])
            elif self._most is None or len(self._kept) < self._most:
                self._kept.append((packet, interfaces[packet.interface]))

    def end(self, received: Sequence[int], dropped: Mapping[str, int]) -> None:
        """Print what was kept. The counts are said elsewhere."""
        for packet, interface in self._kept:
            self._print(packet, interface)

    def _print(self, packet: Packet, interface: Interface) -> None:
        from netlab.packets import describe

        self._start = self._start or packet.time
        place = f"{self._names[interface.namespace]}/{interface.name}"
        where = f"{place:20} " if self._several else ""
        way = "out" if packet.outgoing else "in "
        outer, *inner = describe(packet.content, bare=interface.bare)
        click.echo(f"{(packet.time - self._start) / 1e9:9.6f} {way} {where}{outer}")
        for line in inner:
            click.echo(f"{'':{14 + len(where)}}{line}")


class Pcapng:
    """A file or standard output that gets each interface's frames with its name."""

    def __init__(self, path: str, names: Mapping[str, str], filter_text: str) -> None:
        self.has_reader = path == STANDARD_OUTPUT
        self._path, self._names, self._filter = path, names, filter_text
        self._stream = _open(path)
        self._interfaces: list[Interface] = []
        self._write(pcapng.section())

    def put(self, packets: Sequence[Packet], interfaces: Sequence[Interface]) -> None:
        """Write frames, and before them the interfaces that are new."""
        blocks = [self._interface(one) for one in interfaces[len(self._interfaces) :]]
        self._interfaces = list(interfaces)
        for when, number, outgoing, content, length in packets:
            blocks.append(pcapng.packet(number, when, content, direction=DIRECTIONS[outgoing], length=length))
        if blocks:
            self._write(b"".join(blocks))

    def _interface(self, one: Interface) -> bytes:
        link = LinkType.RAW if one.bare else LinkType.ETHERNET
        name = f"{self._names[one.namespace]}/{one.name}"
        description = f"{one.name} in namespace {one.namespace}"
        return pcapng.interface(name, link, description=description, filter_text=self._filter)

    def end(self, received: Sequence[int], dropped: Mapping[str, int]) -> None:
        """Write the statistics. The kernel counts what it drops by namespace: the first interface has the count."""
        now, blocks, said = time.time_ns(), [], set()
        for number, one in enumerate(self._interfaces):
            alone = [each.namespace for each in self._interfaces].count(one.namespace) == 1
            lost = None if one.namespace in said else dropped[one.namespace]
            comment = "" if alone or lost is None else f"dropped: at all interfaces of {one.namespace}"
            said.add(one.namespace)
            blocks.append(pcapng.statistics(number, now, received=received[number], dropped=lost, comment=comment))
        self._write(b"".join(blocks))
        _close(self._stream, self._path)

    def _write(self, content: bytes) -> None:
        _write(self._stream, self._path, content)


class Pcap:
    """A file of the older format, which has room for one interface and not for its name."""

    def __init__(self, path: str, interfaces: Sequence[Interface]) -> None:
        if len(interfaces) != 1:
            raise UsageError(f"{path}: a {PCAP} file can hold one interface's frames", f"call it {path}ng")
        link = LinkType.RAW if interfaces[0].bare else LinkType.ETHERNET
        self.has_reader = False
        self._path, self._stream = path, _open(path)
        self._writer = PcapWriter(self._stream, link_type=link)

    def put(self, packets: Sequence[Packet], interfaces: Sequence[Interface]) -> None:
        """Write frames."""
        try:
            for packet in packets:
                self._writer.write(packet.content, packet.time)
        except OSError as exc:
            raise _refused(self._path, exc) from exc
        _write(self._stream, self._path, b"")

    def end(self, received: Sequence[int], dropped: Mapping[str, int]) -> None:
        """Close the file: it has no room for counts."""
        _close(self._stream, self._path)


def _open(path: str) -> BinaryIO:
    if path != STANDARD_OUTPUT:
        try:
            return open(path, "wb")
        except OSError as exc:
            raise _refused(path, exc) from exc
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal", "write to a FILE, or to a pipe: `-w - | wireshark -k -i -`")
    return os.fdopen(os.dup(sys.stdout.fileno()), "wb")


def _write(stream: BinaryIO, path: str, content: bytes) -> None:
    try:
        stream.write(content)
        stream.flush()
    except BrokenPipeError:
        stream.detach()  # type: ignore[attr-defined]  # or its end would try again, and complain
        raise
    except OSError as exc:
        raise _refused(path, exc) from exc


def _close(stream: BinaryIO, path: str) -> None:
    try:
        stream.close()
    except OSError as exc:
        raise _refused(path, exc) from exc


def _refused(path: str, exc: OSError) -> NetlabError:
    where = "standard output" if path == STANDARD_OUTPUT else path
    return NetlabError(f"cannot write {where}: {exc.strerror}")
