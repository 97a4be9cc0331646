"""Numbers of a range, given out as the API server does: by hand from the front, by itself from behind it.

The first numbers (the static band) are given out last, so that what users choose there is seldom taken (KEP-3070 for
cluster IPs, KEP-3668 for node ports). Where the API server draws at random, the lowest free one is taken.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from netlab.controllers.state import Key
from netlab.topology.addresses import Address, Network

ADDRESS_BANDS = (16, 16, 256)  # a sixteenth of the range, at least 16 and at most 256 addresses
PORT_BANDS = (16, 32, 128)


def static_band(size: int, bands: tuple[int, int, int]) -> int:
    """Return how many numbers of a range are kept for those who choose: none in a range without room for it."""
    least, share, most = bands
    return 0 if size <= least else min(max(least, size // share), most)


class Range:
    """The numbers from `first` to `last`: which are given out. `kept` ones are given only to who names them."""

    def __init__(self, first: int, last: int, *, band: int = 0, kept: frozenset[int] = frozenset()) -> None:
        self.first, self.last = first, last
        self._kept = kept
        self._used: dict[int, Key] = {}
        self._dynamic = first + band
        self._next = [self._dynamic, first]  # nothing free is below, after the band and in it

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def owner(self, number: int) -> Key | None:
        """Return who has a number."""
        return self._used.get(number)

    def take(self, number: int, owner: Key) -> bool:
        """Give out this number; False if it is not in the range or taken."""
        if number not in self or number in self._used:
            return False
        self._used[number] = owner
        return True

    def take_next(self, owner: Key) -> int | None:
        """Give out the lowest free number behind the static band, else of the band; None if there is none."""
        for part, end in ((0, self.last), (1, self._dynamic - 1)):
            number = self._next[part]
            while number <= end and (number in self._used or number in self._kept):
                number += 1
            self._next[part] = number
            if number <= end:
                self._used[number] = owner
                return number
        return None

    def release(self, number: int) -> None:
        """Take a number back."""
        self._used.pop(number, None)
        part = 0 if number >= self._dynamic else 1
        self._next[part] = min(self._next[part], number)


class AddressRange:
    """The addresses of a network: all but those that stand for the network itself, and an IPv4 one's broadcast."""

    def __init__(self, network: Network, *, banded: bool = False, kept: tuple[int, ...] = ()) -> None:
        self.network = network
        base, count = int(network.network_address), network.num_addresses
        self._make = IPv4Address if network.version == 4 else IPv6Address
        first = base if count <= 2 else base + 1
        last = base + count - (2 if network.version == 4 and count > 2 else 1)
        band = static_band(count, ADDRESS_BANDS) if banded else 0
        self._range = Range(first, last, band=band, kept=frozenset(base + number for number in kept))

    def __contains__(self, address: Address) -> bool:
        return address.version == self.network.version and int(address) in self._range

    def __len__(self) -> int:
        return len(self._range)

    def number(self, index: int) -> Address | None:
        """Return the address that far behind the network's own; None if the network is too small."""
        number = int(self.network.network_address) + index
        return self._make(number) if number in self._range else None

    def owner(self, address: Address) -> Key | None:
        """Return who has an address."""
        return self._range.owner(int(address))

    def take(self, address: Address, owner: Key) -> bool:
        """Give out this address; False if it is not in the network or taken."""
        return address in self and self._range.take(int(address), owner)

    def take_next(self, owner: Key) -> Address | None:
        """Give out an address that nobody chose; None if there is none."""
        number = self._range.take_next(owner)
        return None if number is None else self._make(number)

    def release(self, address: Address) -> None:
        """Take an address back."""
        if address in self:
            self._range.release(int(address))
