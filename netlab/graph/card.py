"""The geometry of one node's card, in pixels: how big it must be, and where everything in it goes.

All cards of a picture share one set of Measures, so that rows and columns line up. A full card has its interfaces on
its border (eth0 above, the tunnel below) and its pods inside, in the bridge or beside it; a compact one has a small
square per pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from netlab.graph.scene import Detail, Interface, NodeBox, PodBox, Scene
from netlab.graph.style import Type, text_width
from netlab.topology.model import Role

PAD = 14
GAP = 8
LINE = 15  # the height of a line of small text
NAME_LINE = 22
CHIP_OUT = 11  # how far an interface reaches out of its card
CHIP_PAD = 8
LABEL_GAP = 10  # between an interface's name and its addresses
SQUARE = 9
SQUARE_GAP = 4
NAME_MAX = 260
POD_NAME_MAX = 200
TARGET_WIDTH = 1240  # of all cards of a row, where there is a choice


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle: its upper left corner and its size."""

    x: int
    y: int
    w: int
    h: int

    @property
    def right(self) -> int:
        """Return the x of the right edge."""
        return self.x + self.w

    @property
    def bottom(self) -> int:
        """Return the y of the lower edge."""
        return self.y + self.h

    @property
    def middle(self) -> int:
        """Return the x halfway."""
        return self.x + self.w // 2


@dataclass(frozen=True, slots=True)
class PlacedPod:
    """A pod and where it is drawn."""

    pod: PodBox
    rect: Rect


@dataclass(frozen=True, slots=True)
class Chip:
    """An interface and where it is drawn. Its addresses stand one per line, `indent` pixels from its left edge."""

    interface: Interface
    rect: Rect
    indent: int


@dataclass(frozen=True, slots=True)
class Card:
    """A node and where its parts are drawn. A compact card has no chips and no bridge."""

    node: NodeBox
    rect: Rect
    name_y: int
    uplink: Chip | None
    bridge: Chip | None
    tunnels: tuple[Chip, ...]
    pods: tuple[PlacedPod, ...]


@dataclass(frozen=True, slots=True)
class Measures:
    """The sizes that all cards of a picture share."""

    detail: Detail
    columns: int
    width: int
    uplink_width: int
    pod_columns: int
    pod_height: int
    pod_gap: int = GAP  # above each row of pods in a bridge


def measure(scene: Scene, pod_gap: int = GAP) -> Measures:
    """Choose the sizes for a scene: the number of columns first, then the narrowest card that holds everything."""
    columns = _columns(scene)
    if scene.detail is Detail.COMPACT:
        widths = (_compact_width(node) for node in scene.nodes)
        return Measures(scene.detail, columns, max(widths, default=0), 0, 0, 0)
    pods = [pod for node in scene.nodes for pod in node.pods]
    pod_width = max((_pod_width(pod) for pod in pods), default=0)
    most = max((len(group) for node in scene.nodes for group in (node.bridged_pods, node.host_network_pods)), default=0)
    room = TARGET_WIDTH // columns // (pod_width + GAP)
    pod_columns = max(1, min(ceil(sqrt(most)), room))
    uplink_width = max((_chip_width(node.uplink) for node in scene.nodes), default=0)
    pods_width = pod_columns * (pod_width + GAP) - GAP if pods else 0
    inner = max((_inner_width(node) for node in scene.nodes), default=0)
    return Measures(
        detail=scene.detail,
        columns=columns,
        width=2 * PAD + max(uplink_width, inner, pods_width + 2 * GAP),
        uplink_width=uplink_width,
        pod_columns=pod_columns,
        pod_height=2 * CHIP_PAD + LINE * (1 + max((len(pod_lines(pod)) for pod in pods), default=0)),
        pod_gap=pod_gap,
    )


def _columns(scene: Scene) -> int:
    """Return how many cards stand side by side: a few in one row, many in a block that is wider than high."""
    longest = max((len(segment.nodes) for segment in scene.segments), default=0)
    if longest <= 4:
        return max(1, longest)
    squareness = 1.6 if scene.detail is Detail.FULL else 1.0
    columns = min(longest, ceil(sqrt(squareness * len(scene.nodes))))
    return ceil(longest / ceil(longest / columns))


def _compact_width(node: NodeBox) -> int:
    heading = min(text_width(node.name, Type.POD), POD_NAME_MAX) + 2 * LABEL_GAP + text_width(node.summary, Type.SMALL)
    return 2 * PAD + max(heading, *(text_width(line, Type.SMALL) for line in compact_lines(node)), 0)


def compact_lines(node: NodeBox) -> tuple[str, ...]:
    """Return the lines under the name of a compact card."""
    return (*(f"{node.uplink.name} {address}" for address in node.uplink.addresses), *cidr_lines(node))


def pod_lines(pod: PodBox) -> tuple[str, ...]:
    """Return the lines under a pod's name."""
    return ("hostNetwork",) if pod.host_network else pod.addresses


def _pod_width(pod: PodBox) -> int:
    name = min(text_width(pod.name, Type.POD), POD_NAME_MAX)
    return 2 * CHIP_PAD + max(name, *(text_width(line, Type.SMALL) for line in pod_lines(pod)), 0)


def _indent(interface: Interface) -> int:
    return CHIP_PAD + text_width(interface.name, Type.POD) + (LABEL_GAP if interface.addresses else 0)


def _chip_width(interface: Interface) -> int:
    addresses = max((text_width(address, Type.SMALL) for address in interface.addresses), default=0)
    return _indent(interface) + addresses + CHIP_PAD


def _chip_height(interface: Interface) -> int:
    return 7 + LINE * max(1, len(interface.addresses))


def _inner_width(node: NodeBox) -> int:
    """Return the width that a full card's lines need, without its pods."""
    tunnels = sum(_chip_width(tunnel) + GAP for tunnel in node.tunnels) - GAP
    name = min(text_width(node.name, Type.NAME), NAME_MAX)
    role = text_width(f"  {node.role}", Type.SMALL) if node.role is Role.EXTERNAL else 0
    cidrs = max((text_width(line, Type.SMALL) for line in cidr_lines(node)), default=0)
    mtu = text_width(mtu_text(node), Type.SMALL)
    bridge = 2 * LABEL_GAP + _chip_width(node.bridge) + mtu if node.bridge else 0
    return max(tunnels, name + role, cidrs, bridge)


def cidr_lines(node: NodeBox) -> tuple[str, ...]:
    """Return the lines that name a node's podCIDRs."""
    return tuple(f"podCIDR {cidr}" for cidr in node.pod_cidrs)


def mtu_text(node: NodeBox) -> str:
    """Return what stands at the right of a bridge."""
    return f"MTU {node.pod_mtu}"


def card_height(node: NodeBox, measures: Measures) -> int:
    """Return the height of a node's card."""
    card = place(node, Rect(0, 0, measures.width, 0), measures)
    lowest = max(
        card.name_y + GAP + LINE * len(compact_lines(node) if measures.detail is Detail.COMPACT else cidr_lines(node)),
        card.bridge.rect.bottom if card.bridge else 0,
        *(placed.rect.bottom for placed in card.pods),
        0,
    )
    return lowest + PAD + (_chip_height(node.tunnels[0]) - CHIP_OUT if card.tunnels else 0)


def place(node: NodeBox, rect: Rect, measures: Measures) -> Card:
    """Put a node's parts into its card. Only the tunnels depend on the card's height."""
    return (_place_full if measures.detail is Detail.FULL else _place_compact)(node, rect, measures)


def _place_compact(node: NodeBox, rect: Rect, measures: Measures) -> Card:
    y = rect.y + 2 * GAP + LINE * (1 + len(compact_lines(node)))
    per_row = max(1, (rect.w - 2 * PAD + SQUARE_GAP) // (SQUARE + SQUARE_GAP))
    area = Rect(rect.x + PAD, y, per_row * (SQUARE + SQUARE_GAP) - SQUARE_GAP, SQUARE)
    pods = _grid(node.pods, area, columns=per_row, gap=SQUARE_GAP)
    return Card(node, rect, rect.y + GAP + LINE - 3, None, None, (), pods)


def _place_full(node: NodeBox, rect: Rect, measures: Measures) -> Card:
    left, inner = rect.x + PAD, rect.w - 2 * PAD
    uplink_rect = Rect(left, rect.y - CHIP_OUT, measures.uplink_width, _chip_height(node.uplink))
    name_y = uplink_rect.bottom + NAME_LINE
    y = name_y + GAP + LINE * len(node.pod_cidrs)
    columns, gap = measures.pod_columns, GAP
    pods = _grid(
        node.host_network_pods,
        Rect(left, y + GAP, inner, measures.pod_height),
        columns=columns,
        gap=gap,
    )
    y = max((placed.rect.bottom for placed in pods), default=y) + GAP
    bridge = None
    if node.bridge:
        top = y + _chip_height(node.bridge) + 4 + measures.pod_gap - GAP
        first = Rect(left + GAP, top, inner - 2 * GAP, measures.pod_height)
        bridged = _grid(node.bridged_pods, first, columns=columns, gap=gap, row_gap=measures.pod_gap)
        bottom = max((placed.rect.bottom + GAP for placed in bridged), default=y + _chip_height(node.bridge))
        bridge = Chip(node.bridge, Rect(left, y, inner, bottom - y), _indent(node.bridge))
        pods += bridged
    uplink = Chip(node.uplink, uplink_rect, _indent(node.uplink))
    return Card(node, rect, name_y, uplink, bridge, _place_tunnels(node.tunnels, rect), pods)


def _place_tunnels(tunnels: Iterable[Interface], rect: Rect) -> tuple[Chip, ...]:
    """Put the tunnels side by side on the lower edge."""
    chips: list[Chip] = []
    for tunnel in tunnels:
        x = chips[-1].rect.right + GAP if chips else rect.x + PAD
        h = _chip_height(tunnel)
        chips.append(Chip(tunnel, Rect(x, rect.bottom - h + CHIP_OUT, _chip_width(tunnel), h), _indent(tunnel)))
    return tuple(chips)


def _grid(
    pods: Sequence[PodBox], first_row: Rect, *, columns: int, gap: int, row_gap: int | None = None
) -> tuple[PlacedPod, ...]:
    """Put pods into columns of equal width, row by row."""
    width = (first_row.w - gap * (columns - 1)) // columns
    return tuple(
        PlacedPod(
            pod,
            Rect(
                first_row.x + index % columns * (width + gap),
                first_row.y + index // columns * (first_row.h + (gap if row_gap is None else row_gap)),
                width,
                first_row.h,
            ),
        )
        for index, pod in enumerate(pods)
    )
