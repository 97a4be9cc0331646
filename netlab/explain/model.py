"""Packet-filter rules as values, whichever tool listed them: conditions, then one action. Pure.

Read in this order: this; saved.py (iptables' listing) and nft.py (nft's), which make these values; tree.py, which picks
one Service's; explain.py, which says what they do. read.py fetches the listings of a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

from netlab.topology.addresses import Address, Network


class Source(StrEnum):
    """Who read the rules, and from where."""

    LEGACY = "read by python-iptables from the legacy tables"
    LEGACY_SAVE = "read by iptables-legacy-save from the legacy tables"
    NFT_BACKED = "read by iptables-nft-save from the nft-backed tables"
    NFTABLES = "read by nft from kube-proxy's table"


class Counters(NamedTuple):
    """What a rule has seen since it was made."""

    packets: int
    bytes: int


# --- conditions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class From:
    """The packet's source is in one of the networks, or with `negated` in none."""

    networks: tuple[Network, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class To:
    """The packet's destination is in one of the networks, or with `negated` in none."""

    networks: tuple[Network, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Layer4:
    """The packet's layer 4 protocol ("tcp")."""

    protocol: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class ToPort:
    """The packet's destination port."""

    port: int
    negated: bool = False


@dataclass(frozen=True, slots=True)
class FromNode:
    """The packet's source is an address of the node itself."""

    negated: bool = False


@dataclass(frozen=True, slots=True)
class ToNode:
    """The packet's destination is an address of the node itself."""

    negated: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What connection tracking says of the packet ("NEW")."""

    names: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Chance:
    """It is met with this probability, whatever the packet."""

    probability: Fraction


@dataclass(frozen=True, slots=True)
class Recent:
    """The client is on a list that another rule puts it on, for `seconds`: session affinity."""

    name: str
    seconds: int


@dataclass(frozen=True, slots=True)
class InSet:
    """The packet is in an IP set; `directions` say for each part of an entry whose it is: "src" or "dst"."""

    name: str
    directions: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """A condition that this package has no word for, as the tool wrote it."""

    text: str


Condition = From | To | Layer4 | ToPort | FromNode | ToNode | State | Chance | Recent | InSet | Unknown


# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in another chain. `returns` says whether the packet comes back when that chain ends (not with "goto")."""

    chain: str
    returns: bool = True


@dataclass(frozen=True, slots=True)
class Choose:
    """Go on in one of several chains, each with its probability."""

    shares: tuple[tuple[Fraction, str], ...]


@dataclass(frozen=True, slots=True)
class Dnat:
    """Change the destination; `to` is "address:port"."""

    to: str

    @property
    def address(self) -> str:
        """Return the address alone."""
        return self.to.rpartition(":")[0].strip("[]") if ":" in self.to else self.to


@dataclass(frozen=True, slots=True)
class SetMark:
    """Set these bits of the packet's mark. 0: it clears or flips some, which is no order to masquerade."""

    bits: int


@dataclass(frozen=True, slots=True)
class Balance:
    """Go to one of the real servers in a chain, chosen by a scheduler of IPVS.

    `timeout` is how many seconds a client stays with its server, 0 without affinity.
    """

    scheduler: str
    chain: str
    timeout: int = 0


@dataclass(frozen=True, slots=True)
class Serve:
    """Be a real server: change the destination to `to`. With weight 0 it gets no new connections."""

    to: str
    weight: int


class Verdict(StrEnum):
    """An end, or a turn, that needs no further words."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    RETURN = "return"
    MASQUERADE = "masquerade"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class UnknownAction:
    """An action that this package has no word for, as the tool wrote it."""

    text: str


Action = Jump | Choose | Dnat | SetMark | Balance | Serve | Verdict | UnknownAction


# --- rules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, or one element of a verdict map together with the rule that looks it up (`map` names it then).

    `remembers` is the list that it puts the client on. `counters` None: this mode counts nothing.
    """

    table: str
    chain: str
    conditions: tuple[Condition, ...]
    action: Action
    comment: str = ""
    remembers: str = ""
    counters: Counters | None = None
    map: str = ""


Place = tuple[str, str]  # table, chain
VIRTUAL_SERVERS: Place = ("ipvs", "virtual servers")  # in IPVS mode: they stand among the chains as if they were one


class Entries(NamedTuple):
    """What an IP set holds: its kind by parts ("ip", "port"), and its entries as `ipset save` writes them."""

    parts: tuple[str, ...]
    texts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tables:
    """All rules of one IP version that one reader saw, by table and chain, and the IP sets that they ask."""

    source: Source
    version: int
    chains: Mapping[Place, tuple[Rule, ...]]
    sets: Mapping[str, Entries] = field(default_factory=dict)

    @property
    def is_nftables(self) -> bool:
        """Whether it is kube-proxy's nftables mode."""
        return self.source is Source.NFTABLES

    @property
    def is_ipvs(self) -> bool:
        """Whether it is kube-proxy's IPVS mode."""
        return VIRTUAL_SERVERS in self.chains

    @property
    def read(self) -> str:
        """Who read all this."""
        return f"{self.source}, virtual servers by netlink" if self.is_ipvs else self.source

    def chain(self, table: str, name: str) -> tuple[Rule, ...]:
        """Return a chain's rules; none when there is no such chain."""
        return self.chains.get((table, name), ())

    def marks(self, table: str, name: str) -> bool:
        """Say whether a chain does what KUBE-MARK-MASQ is there for: mark every packet that comes."""
        return any(
            isinstance(rule.action, SetMark) and rule.action.bits and not rule.conditions
            for rule in self.chain(table, name)
        )

    def rejects(self, table: str, name: str) -> bool:
        """Say whether a chain refuses every packet that comes."""
        first = self.chain(table, name)[:1]
        return any(rule.action is Verdict.REJECT and not rule.conditions for rule in first)


class Reading(NamedTuple):
    """What was read: the tables that hold Service rules, and remarks on how."""

    tables: tuple[Tables, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection, as far as it is known; None where it is not."""

    destination: Address | None  # None: any address of the node
    protocol: str
    port: int
    source: Address | None = None
    from_node: bool | None = None
    to_node: bool = False
