"""What was seen, put together: which sightings are of one packet, in which order it went, which were of copies. Pure.

A packet keeps its identity through NAT, tunnels and forwarding: its IPv4 identification, a TCP segment's numbers, an
echo's. It keeps its place in the kernel's memory from device to device, and across namespaces, unless it is copied: to
several ports of a bridge, or through a process (flannel's UDP backend). So each sighting has one that it follows from;
the way is what leads to the last end, and what is not on it were copies.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from netlab.trace.headers import (
    Ethernet,
    Icmp,
    Ip,
    Quote,
    Tcp,
    fragment_offset,
    innermost,
    is_echo_reply,
)
from netlab.trace.layout import Direction, Kind
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Device

ENDS = (Kind.DROPPED, Kind.CONSUMED)

FindDevice = Callable[[str, str], Device | None]  # by namespace and name


class Role(StrEnum):
    """What a packet is in a conversation."""

    PROBE = "probe"
    ANSWER = "answer"
    ERROR = "icmp error"
    FRAGMENT = "fragment"  # of the probe, behind the first
    ANSWER_FRAGMENT = "fragment of the answer"
    MORE = "later packet"  # of a TCP connection


@dataclass(frozen=True, slots=True)
class Journey:
    """One packet's way. `copies` are ways that branch off it; `branched_from` says for each after which sighting."""

    role: Role
    way: tuple[Sighting, ...]
    copies: tuple[tuple[Sighting, ...], ...] = ()
    branched_from: tuple[Sighting | None, ...] = ()


def correlate(sightings: Iterable[Sighting], find_device: FindDevice) -> list[Journey]:
    """Put sightings together to journeys, in the order in which they began."""
    in_order = sorted(sightings, key=lambda one: one.time)  # stable: those of one time stay in the order they came
    packets: dict[Hashable, list[Sighting]] = {}
    for sighting in in_order:
        if (identity := identify(sighting)) is not None:
            packets.setdefault(identity, []).append(sighting)
    found: list[Journey] = []
    has_probe = has_answer = False
    for seen in packets.values():
        role = _role(seen, found, has_probe=has_probe, has_answer=has_answer)
        if journey := _journey(role, seen, find_device):
            has_probe |= role is Role.PROBE
            has_answer |= role is Role.ANSWER
            found.append(journey)
    return found


def identify(sighting: Sighting) -> Hashable:
    """Return what tells a packet from all others of its conversation, wherever it is seen; None without headers."""
    inner = innermost(sighting.headers)
    if not inner or not isinstance(inner[0], Ip):
        return None
    ident, protocol, rest = inner[0].ident, inner[0].protocol, inner[1] if len(inner) > 1 else None
    if offset := fragment_offset(sighting.headers):
        return "fragment", protocol, ident, offset
    ident = ident if inner[0].version == 4 else 0  # an IPv6 packet has one only while it is in fragments
    match rest:
        case Tcp(seq=seq, ack=ack, flags=flags):
            return protocol, ident, seq, ack, flags
        case Icmp(type=kind, ident=echo, seq=seq):
            return protocol, ident, kind, echo, seq
        case _:
            return protocol, ident, _goes_back(sighting)


def _is_cut_from_probe(seen: Sequence[Sighting], before: Sequence[Journey]) -> bool:
    """Say whether the first fragment is the probe's: all of a packet share source, identification and protocol."""
    probes = (one for journey in before if journey.role is Role.PROBE for one in journey.way)
    known = {_cut(header) for one in probes for header in one.headers if isinstance(header, Ip)}
    return any(_cut(header) in known for one in seen for header in one.headers if isinstance(header, Ip))


def _cut(header: Ip) -> Hashable:
    return header.src, header.ident, header.protocol


def _goes_back(sighting: Sighting) -> bool:
    return sighting.direction is Direction.BACK


def _role(seen: Sequence[Sighting], before: Sequence[Journey], *, has_probe: bool, has_answer: bool) -> Role:
    headers = seen[0].headers
    if fragment_offset(headers):
        return Role.FRAGMENT if _is_cut_from_probe(seen, before) else Role.ANSWER_FRAGMENT
    if Quote() in headers:
        return Role.ERROR
    if any(_goes_back(one) for one in seen) or is_echo_reply(headers):
        return Role.MORE if has_answer else Role.ANSWER
    return Role.MORE if has_probe else Role.PROBE


# --- the way of one packet -------------------------------------------------------------------------------------------


def _journey(role: Role, seen: Sequence[Sighting], find_device: FindDevice) -> Journey | None:
    steps = _without_strays(seen) or (_unsent(seen) if role is Role.PROBE else [])
    if not steps:
        return None
    parents = [_parent(steps, place, find_device) for place in range(len(steps))]
    way = _furthest(steps, parents, find_device)
    rest = [place for place in range(len(steps)) if place not in set(way)]
    copies = _copies(steps, parents, rest)
    heads = [parents[places[0]] for places in copies]
    return Journey(
        role,
        tuple(steps[place] for place in way),
        tuple(tuple(steps[place] for place in places) for places in copies),
        tuple(None if head is None else steps[head] for head in heads),
    )


def _unsent(seen: Sequence[Sighting]) -> list[Sighting]:
    """Return the end of a packet that its sender's own kernel dropped."""
    return [one for one in seen if one.kind is Kind.DROPPED][-1:]


def _without_strays(seen: Sequence[Sighting]) -> list[Sighting]:
    """Leave out ends of what nobody saw on its way: a copy that ARP looks at, a packet that is wrapped or queued again.

    A device that was lost on the way to the end is that of the last sighting in the same memory.
    """
    found: list[Sighting] = []
    last: dict[int, Sighting] = {}
    for one in seen:
        if one.kind not in ENDS:
            last[one.buffer] = one
            found.append(one)
        elif one.buffer == 0 or one.buffer in last:
            known = last.get(one.buffer)
            found.append(one if one.namespace or not known else _placed(one, known))
    return found


def _placed(end: Sighting, known: Sighting) -> Sighting:
    return replace(end, namespace=known.namespace, device=known.device, ifindex=known.ifindex)


def _parent(steps: Sequence[Sighting], place: int, find_device: FindDevice) -> int | None:
    """Return which earlier sighting this one follows from: the last one in the same memory that it may, or else any."""
    one = steps[place]
    before = [number for number in range(place - 1, -1, -1) if steps[number].kind not in ENDS]
    same = [number for number in before if one.buffer and steps[number].buffer == one.buffer]
    for number in (*same, *before):
        if _may_follow(steps[number], one, find_device):
            return number
    return None


def _may_follow(earlier: Sighting, later: Sighting, find_device: FindDevice) -> bool:
    """Say whether a packet can be seen so right after: a cable leads to another namespace, a bridge to its ports."""
    if later.kind in ENDS:
        return earlier.buffer == later.buffer
    if earlier.namespace != later.namespace:
        return earlier.kind is Kind.OUT and later.kind is Kind.IN and earlier.headers == later.headers
    if later.kind is Kind.IN:
        return earlier.kind is Kind.IN
    former, device = find_device(earlier.namespace, earlier.device), find_device(later.namespace, later.device)
    if former is None or device is None or earlier.kind is Kind.IN or not former.bridge:
        return True
    return former.bridge != device.bridge  # the packet left by another port: this is another copy


def _furthest(steps: Sequence[Sighting], parents: Sequence[int | None], find_device: FindDevice) -> list[int]:
    """Return the way of the packet that was delivered or, if none was, of the one that came furthest.

    Of a flooded frame's copies that were dropped the one counts that came to whom it was for.
    """
    delivered = [
        place for place, one in enumerate(steps) if one.kind is Kind.CONSUMED and not _is_sent_on(steps, place)
    ]
    dropped = [place for place, one in enumerate(steps) if one.kind is Kind.DROPPED]
    meant = [place for place in dropped if _is_for(steps[place], find_device)]
    ways = [_way(parents, end) for end in delivered or meant or dropped or range(len(steps))]
    return max(ways, key=lambda way: (len(way), way[-1]))


def _is_sent_on(steps: Sequence[Sighting], place: int) -> bool:
    """Say whether it was a forwarder's process that read the packet: after it came it is seen there again, elsewhere.

    Its memory may be freed long after that (net/core/skbuff.c, skb_attempt_defer_free).
    """
    end = steps[place]
    before = (number for number in range(place) if steps[number].kind not in ENDS)
    came = max((number for number in before if steps[number].buffer == end.buffer), default=place)
    later = (one for one in steps[came + 1 :] if one.kind not in ENDS)
    return any(one.namespace == end.namespace for one in later)


def _is_for(one: Sighting, find_device: FindDevice) -> bool:
    """Say whether a frame is for the MAC of the device that it came to."""
    frame, device = next(iter(one.headers), None), find_device(one.namespace, one.device)
    return isinstance(frame, Ethernet) and device is not None and frame.dst == device.mac


def _way(parents: Sequence[int | None], end: int) -> list[int]:
    way: list[int] = []
    place: int | None = end
    while place is not None:
        way.append(place)
        place = parents[place]
    return way[::-1]


def _copies(steps: Sequence[Sighting], parents: Sequence[int | None], rest: Sequence[int]) -> list[list[int]]:
    """Return the branches: each begins where no other of the rest leads to. That a process read it is no branch."""
    branches: dict[int, list[int]] = {}
    heads: dict[int | None, int] = {}
    for place in rest:
        heads[place] = heads.get(parents[place], place)
        branches.setdefault(heads[place], []).append(place)
    return [places for places in branches.values() if any(steps[place].kind is not Kind.CONSUMED for place in places)]
