"""The programs at tracepoints, encoded and kept in the cache folder: to assemble them takes longer than a trace.

They are the same for all probes on a kernel. A change of the files that make them makes them anew; otherwise those are
not even imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from netlab import paths
from netlab.bpf.assembler import Encoded
from netlab.trace.layout import Target

PACKAGE = Path(__file__).parent
SOURCES = (
    PACKAGE.parent / "bpf" / "assembler.py",
    *(PACKAGE / name for name in ("dissect.py", "layout.py", "program.py")),
)


def kept_programs(offsets: Mapping[str, int], target: Target) -> dict[str, Encoded]:
    """Return the programs of `program.programs`, encoded."""
    kept = paths.cache_dir() / "trace-programs.json"
    key = repr((sorted(offsets.items()), sorted(target.vxlan_ports), sorted(target.tunnel_ports), _sources()))
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        held = json.loads(kept.read_text())[key]
        return {name: Encoded(bytes.fromhex(code), tuple(map(tuple, places))) for name, (code, places) in held.items()}
    from netlab.trace.program import programs

    found = {name: made.encode() for name, made in programs(offsets, target).items()}
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({key: {name: (one.content.hex(), one.places) for name, one in found.items()}}))
        scratch.replace(kept)
    return found


def _sources() -> list[tuple[int, int]]:
    """Return when each file was changed, in nanoseconds, and its size."""
    found = [file.stat() for file in SOURCES]
    return [(one.st_mtime_ns, one.st_size) for one in found]
