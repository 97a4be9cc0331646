"""A program as the kernel takes it, but for the descriptors of its maps: what can be kept in a file. Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple


class Encoded(NamedTuple):
    """A program's code, and the slots in which the descriptors of maps are to stand."""

    content: bytes
    places: tuple[tuple[int, str], ...]

    @property
    def maps(self) -> frozenset[str]:
        """Return the names of the maps that it uses."""
        return frozenset(name for _, name in self.places)

    def code(self, maps: Mapping[str, int]) -> bytes:
        """Return what bpf(2) takes; `maps` gives each its descriptor."""
        content = bytearray(self.content)
        for slot, name in self.places:
            struct.pack_into("=I", content, slot * 8 + 4, maps[name])
        return bytes(content)
