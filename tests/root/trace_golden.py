"""A trace without what differs from run to run: what is held in tests/golden/trace/ways."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

from netlab.trace.model import Trace
from netlab.trace.render.as_json import as_json

FOLDER = Path("tests/golden/trace/ways")
CHOSEN = {0, 9, 53, 80, 8080, 8285, 8472, 30080}  # the ports that topologies name; others are the kernel's choice
VOLATILE = ("ident", "seq", "ack", "length", "mtu")
STATES = re.compile(r"\b(REACHABLE|STALE|DELAY|PROBE)\b")
PORT = re.compile(r"(\d+\.\d+\.\d+\.\d+|\]):(\d+)\b")


def normalized(trace: Trace) -> dict[str, Any]:
    """Return what must be the same each time: every hop with its headers, changes and causes."""
    value = as_json(trace)
    return {
        "question": value["question"],
        "verdict": value["verdict"],
        "remarks": value["remarks"],
        "ways": [
            {"role": way["role"], "hops": [_hop(hop) for hop in _on_the_way(way)], "copies": len(way["copies"])}
            for way in value["ways"]
        ],
    }


def _on_the_way(way: dict[str, Any]) -> list[dict[str, Any]]:
    """Leave out that a process has read it: the kernel frees a datagram when it likes, also after the trace."""
    return [hop for hop in way["hops"] if hop["event"] != "delivered"]


def _hop(hop: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": f"{hop['member']} {hop['device']} {hop['event']}",
        "headers": [_header(header) for header in hop["headers"]],
        "changes": [_text(change) for change in hop["changes"]],
        "causes": [_text(f"{cause['topic']} {cause['text']} ({cause['origin']})") for cause in hop["causes"]],
    }


def _header(header: dict[str, Any]) -> str:
    fields = {key: value for key, value in header.items() if key not in VOLATILE}
    fields |= {key: _port(value) for key, value in fields.items() if key in ("sport", "dport")}
    return " ".join([fields.pop("layer"), *(f"{key}={value}" for key, value in fields.items() if value is not False)])


def _port(port: int) -> str:
    return str(port) if port in CHOSEN else "PORT"


def _text(text: str) -> str:
    return STATES.sub("KNOWN", PORT.sub(lambda match: f"{match[1]}:{_port(int(match[2]))}", text))


def check(name: str, traces: list[Trace]) -> None:
    """Compare traces with those that are held under a name; NETLAB_GOLDEN=write holds these instead."""
    found = json.dumps([normalized(trace) for trace in traces], indent=1) + "\n"
    file = FOLDER / f"{name}.json"
    if os.environ.get("NETLAB_GOLDEN") == "write":
        FOLDER.mkdir(parents=True, exist_ok=True)
        file.write_text(found)
    held = file.read_text()
    differing = difflib.unified_diff(held.splitlines(), found.splitlines(), "held", "found", n=8, lineterm="")
    assert found == held, "\n".join(differing)
