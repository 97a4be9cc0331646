"""Which modes of kube-proxy have left something in a node: one that was killed could not take it away.

Every mode has things that no other has. They are asked of the kernel: a node that has nothing starts no program.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from netlab.errors import KernelError
from netlab.kernel import netlink, netns
from netlab.proxy import listing, tools
from netlab.proxy.ipvs_device import DEVICE
from netlab.proxy.ipvs_signs import HEADERS
from netlab.proxy.proxier import NodeTarget
from netlab.proxy.watch import FAMILIES, NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES
from netlab.service.iptables_names import CANARY, EXTERNAL_SERVICES
from netlab.service.iptables_restore import CANARY_TABLES
from netlab.service.nftables import TABLE
from netlab.topology.model import Proxy

GETCHAIN = NFNL_SUBSYS_NFTABLES << 8 | 4  # NFT_MSG_GETCHAIN
CHAIN_TABLE, CHAIN_NAME = 1, 3  # NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME
SET_NAME = 2  # IPSET_ATTR_SETNAME
SETS = Path("/sys/module/ip_set")  # to ask a kernel for sets would load the module
LEGACY_TABLES = {4: "ip_tables_names", 6: "ip6_tables_names"}
ONLY_IPTABLES = frozenset({CANARY, EXTERNAL_SERVICES})  # the other chains without a port's name are of mode ipvs too


def find(target: NodeTarget, mode: Proxy) -> list[Proxy]:
    """Return the modes other than a node's own that have left something. Raises KernelError and ProgramError."""
    with closing(netns.call(target.netns, netlink.Socket, NETLINK_NETFILTER)) as opened:
        try:
            chains = set(_nft_chains(opened))
            has_sets = SETS.exists() and any(_sets(opened))
        except OSError as exc:
            raise KernelError(exc.errno, f"{target.netns}: look for what other modes of kube-proxy have left") from exc
    devices, legacy = netns.call(target.netns, _read)
    found = {
        Proxy.IPTABLES: any(table in CANARY_TABLES and chain in ONLY_IPTABLES for _, table, chain in chains)
        or any(_has_legacy(target.netns, version) for version in legacy),
        Proxy.NFTABLES: any(version and table == TABLE for version, table, _ in chains),
        Proxy.IPVS: has_sets or DEVICE in devices,
    }
    return [other for other, is_there in found.items() if is_there and other is not mode]


def _nft_chains(opened: netlink.Socket) -> Iterator[tuple[int, str, str]]:
    """Yield IP version (0: another family), table and name of every chain of nftables, and so of iptables-nft."""
    for _, buffer, start, end in opened.dump(netlink.Message(GETCHAIN, 0, bytes(4))):  # struct nfgenmsg: any family
        fields = netlink.attributes(buffer, start + 4, end)
        yield FAMILIES.get(buffer[start], 0), _text(fields[CHAIN_TABLE]), _text(fields[CHAIN_NAME])


def _sets(opened: netlink.Socket) -> Iterator[bool]:
    """Yield whether each IP set of a node is one of ours."""
    try:
        for _, buffer, start, end in opened.dump(HEADERS):
            name = netlink.attributes(buffer, start + 4, end).get(SET_NAME, b"")
            yield name.startswith(listing.OWN.encode())
    except OSError as exc:
        if exc.errno != errno.EPERM:  # whose namespaces are a user's has no mode ipvs
            raise


def _read() -> tuple[str, list[int]]:
    """Return the text that lists devices, and the IP versions that have tables of iptables-legacy."""
    net = Path("/proc/thread-self/net")
    names = {version: net / name for version, name in LEGACY_TABLES.items()}
    return (net / "dev").read_text(), [version for version, file in names.items() if file.exists() and file.read_text()]


def _has_legacy(name: str, version: int) -> bool:
    tables = listing.parse(tools.save(name, "iptables-legacy", version))
    return any(not ONLY_IPTABLES.isdisjoint(tables.get(table, {})) for table in CANARY_TABLES)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
