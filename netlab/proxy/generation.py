"""How many transactions of nftables a namespace has seen: the kernel counts them (linux/netfilter/nf_tables.h)."""

from __future__ import annotations

from contextlib import closing

from netlab.kernel import netlink, netns
from netlab.proxy.watch import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES

GETGEN = NFNL_SUBSYS_NFTABLES << 8 | 16  # NFT_MSG_GETGEN
GEN_ID = 1  # NFTA_GEN_ID
HEADER = bytes(4)  # struct nfgenmsg


def read(name: str) -> int:
    """Return the number of a namespace's last transaction, whoever made it; each that changes something adds one."""
    with closing(netns.call(name, netlink.Socket, NETLINK_NETFILTER)) as opened:
        return read_by(opened)


def read_by(opened: netlink.Socket) -> int:
    """Do the same by a socket of the namespace that is open already."""
    ask = netlink.Message(GETGEN, netlink.NLM_F_ACK, HEADER)  # one answer, and the acknowledgement ends it
    found = [netlink.attributes(buffer, start + 4, end) for _, buffer, start, end in opened.dump(ask)]
    return int.from_bytes(found[0][GEN_ID], "big")
