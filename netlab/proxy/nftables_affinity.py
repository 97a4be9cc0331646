"""Who has affinity to which endpoint, read from a node's table of mode nftables: a table made anew is to know it too.

By netlink (linux/netfilter/nf_tables.h): `nft list` reads every set of the table, and there are two for each Service.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import closing
from ipaddress import ip_address

from netlab.errors import KernelError
from netlab.kernel import netlink, netns
from netlab.proxy.watch import FAMILIES, NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES
from netlab.service.nftables import AFFINITY, TABLE, affinity_set
from netlab.service.nftables_table import Kept

GETSET, GETSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 10, NFNL_SUBSYS_NFTABLES << 8 | 13
SET_TABLE, SET_NAME, SET_KEY_LEN, SET_TIMEOUT = 1, 2, 5, 11  # NFTA_SET_*; the timeout in ms
LIST_TABLE, LIST_SET, LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
LIST_ELEM = 1  # NFTA_LIST_ELEM
ELEM_KEY, ELEM_EXPIRATION = 1, 5  # NFTA_SET_ELEM_*; ms that are left
DATA_VALUE = 1  # NFTA_DATA_VALUE
NUMBERS = {version: number for number, version in FAMILIES.items()}
KEY_BYTES = {4: 4, 6: 16}


def read(name: str, version: int) -> dict[str, Kept]:
    """Return the affinity sets of a node that have elements, in one IP version, by name. Raises KernelError."""
    with closing(netns.call(name, netlink.Socket, NETLINK_NETFILTER)) as opened:
        try:
            return _read(opened, version)
        except OSError as exc:
            raise KernelError(exc.errno, f"{name}: read affinity sets of table {TABLE}") from exc


def _read(opened: netlink.Socket, version: int) -> dict[str, Kept]:
    found = {}
    for called, definition in _sets(opened, version).items():
        elements = tuple(_elements(opened, version, called))
        if elements:
            found[called] = Kept(definition, elements)
    return found


def _sets(opened: netlink.Socket, version: int) -> dict[str, str]:
    """Return the definitions of affinity sets, as they are written."""
    found = {}
    for fields in _dump(opened, GETSET, version, netlink.attribute_text(SET_TABLE, TABLE)):
        called = _text(fields[SET_NAME])
        if called.startswith(AFFINITY) and _number(fields.get(SET_KEY_LEN, b"")) == KEY_BYTES[version]:
            found[called] = affinity_set(version, _number(fields.get(SET_TIMEOUT, b"")) // 1000)
    return found


def _elements(opened: netlink.Socket, version: int, called: str) -> Iterator[tuple[str, int]]:
    asked = netlink.attribute_text(LIST_TABLE, TABLE) + netlink.attribute_text(LIST_SET, called)
    for fields in _dump(opened, GETSETELEM, version, asked):
        for element in _listed(fields.get(LIST_ELEMENTS, b"")):
            left = _number(element.get(ELEM_EXPIRATION, b""))
            if left:
                key = netlink.nested(element[ELEM_KEY])[DATA_VALUE]
                yield str(ip_address(key[: KEY_BYTES[version]])), left


def _dump(opened: netlink.Socket, kind: int, version: int, asked: bytes) -> Iterator[Mapping[int, bytes]]:
    """Yield the attributes of each answer; none where the table or the set is not there."""
    message = netlink.Message(kind, 0, bytes([NUMBERS[version], 0, 0, 0]) + asked)  # after struct nfgenmsg
    try:
        for _, buffer, start, end in opened.dump(message):
            yield netlink.attributes(buffer, start + 4, end)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise


def _listed(payload: bytes) -> Iterator[Mapping[int, bytes]]:
    """Yield the members of a list, which all have one type."""
    start = 0
    while start + 4 <= len(payload):
        length = int.from_bytes(payload[start : start + 2], "little")
        yield netlink.attributes(payload, start + 4, start + length)
        start += (length + 3) & ~3


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
