"""The programs at tracepoints, encoded and kept in the cache folder: to assemble them takes longer than a trace.

They are the same for all probes on a kernel, but not for flows. A change of the files that make them makes them anew;
otherwise those are not even imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netlab.bpf.encoded import Encoded
from netlab.kept import kept
from netlab.trace.layout import Target

PACKAGE = Path(__file__).parent
SOURCES = (
    PACKAGE.parent / "bpf" / "assembler.py",
    *(PACKAGE / name for name in ("dissect.py", "layout.py", "program.py", "stack.py")),
)


def kept_programs(offsets: Mapping[str, int], target: Target) -> dict[str, Encoded]:
    """Return the programs of `program.programs`, encoded."""

    def make() -> dict[str, Encoded]:
        from netlab.trace.program import programs

        return {name: made.encode() for name, made in programs(offsets, target).items()}

    if target.filter:  # hardly the same one again
        return make()
    key = repr((sorted(offsets.items()), sorted(target.vxlan_ports), sorted(target.tunnel_ports), _sources()))
    return kept("trace-programs.json", key, _from_json, make, _to_json)


def _from_json(held: dict[str, Any]) -> dict[str, Encoded]:
    return {name: Encoded(bytes.fromhex(code), tuple(map(tuple, places))) for name, (code, places) in held.items()}


def _to_json(programs: dict[str, Encoded]) -> dict[str, Any]:
    return {name: (one.content.hex(), one.places) for name, one in programs.items()}


def _sources() -> list[tuple[int, int]]:
    """Return when each file was changed, in nanoseconds, and its size."""
    found = [file.stat() for file in SOURCES]
    return [(one.st_mtime_ns, one.st_size) for one in found]
