"""How the SVG looks: type sizes, text widths, colours for light and dark.

The picture brings no fonts along, so a text's width is an estimate on the safe side: as wide as in DejaVu, the widest
of the usual system fonts. Colours are spelled out per class instead of CSS variables, which most viewers other than
browsers do not know; those show the light scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',Helvetica,Arial,sans-serif"
MONO = "ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"


class Type(Enum):
    """A style of text: CSS class, size in pixels, weight, whether all characters are equally wide."""

    TITLE = ("title", 22, 600, False)
    NAME = ("name", 14, 600, False)
    POD = ("pod-name", 12, 600, False)
    FACT = ("fact", 12, 400, True)
    SMALL = ("small", 11, 400, True)

    @property
    def css_class(self) -> str:
        """Return the class that carries this style."""
        return self.value[0]

    @property
    def size(self) -> int:
        """Return the type size in pixels."""
        return self.value[1]

    @property
    def css(self) -> str:
        """Return the font declaration."""
        _, size, weight, fixed = self.value
        return f"font:{weight} {size}px {MONO if fixed else SANS}"


_NARROW = frozenset("fijlrtI.,:;'|!-()[] /")
_WIDE = frozenset("mwMW@%—…")


def text_width(text: str, style: Type) -> int:
    """Return the width that a text needs, in pixels, rounded up."""
    fixed = style.value[3]
    widths = (0.61 if fixed else 0.47 if char in _NARROW else 1.05 if char in _WIDE else 0.73 for char in text)
    return int(sum(widths) * style.size) + 1


def shorten(text: str, style: Type, width: int) -> str:
    """Take characters out of the middle until a text fits: a generated name differs at its end."""
    if text_width(text, style) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        head = (kept + 1) // 2
        short = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if text_width(short, style) <= width:
            return short
    return "…"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one scheme. Each of the three kinds of network has a line, a fill and a text colour."""

    canvas: str
    card: str
    edge: str
    text: str
    muted: str
    underlay: str
    underlay_fill: str
    bridge: str
    bridge_fill: str
    overlay: str
    overlay_fill: str


LIGHT = Palette(
    canvas="#ffffff",
    card="#f8fafc",
    edge="#cbd5e1",
    text="#0f172a",
    muted="#56657a",
    underlay="#3b6ea5",
    underlay_fill="#e3edf8",
    bridge="#3f8f7a",
    bridge_fill="#e6f3ef",
    overlay="#8458b3",
    overlay_fill="#f3ecfa",
)
DARK = Palette(
    canvas="#0d1117",
    card="#161c26",
    edge="#364152",
    text="#e6edf5",
    muted="#94a3b8",
    underlay="#6ea3dc",
    underlay_fill="#16283d",
    bridge="#5cb8a0",
    bridge_fill="#12302a",
    overlay="#b78fe0",
    overlay_fill="#2a1f3a",
)


def stylesheet() -> str:
    """Return the picture's whole CSS: shapes and type once, colours per scheme."""
    fonts = "".join(f".{style.css_class}{{{style.css}}}\n" for style in Type)
    dark = _scoped(_colours(DARK))
    return f"{_scoped(fonts + _SHAPES + _colours(LIGHT))}@media (prefers-color-scheme:dark){{\n{dark}}}\n"


def _scoped(rules: str) -> str:
    """Keep rules, one per line, inside the picture: it may stand in a page that has classes of the same names."""
    return "".join(
        ",".join(f".netlab {selector}" for selector in selectors.split(",")) + f"{{{declarations}\n"
        for selectors, _, declarations in (line.partition("{") for line in rules.splitlines())
    )


_SHAPES = """\
rect,path{stroke-width:1.25}
path{fill:none}
.overlay,.tunnel,.shared{stroke-dasharray:5 4}
.square{stroke-dasharray:none}
.end{text-anchor:end}
"""


def _colours(palette: Palette) -> str:
    p = palette
    return f"""\
.canvas{{fill:{p.canvas};stroke:none}}
text{{fill:{p.text}}}
.muted{{fill:{p.muted}}}
.card{{fill:{p.card};stroke:{p.edge}}}
.pod{{fill:{p.canvas};stroke:{p.edge}}}
.shared{{fill:none;stroke:{p.muted}}}
.underlay{{fill:{p.underlay_fill};stroke:{p.underlay}}}
.bridge{{fill:{p.bridge_fill};stroke:{p.bridge}}}
.overlay{{fill:{p.overlay_fill};stroke:{p.overlay}}}
.wire{{stroke:{p.underlay}}}
.tunnel{{stroke:{p.overlay}}}
.dot{{fill:{p.underlay};stroke:none}}
.tunnel-dot{{fill:{p.overlay};stroke:none}}
"""
