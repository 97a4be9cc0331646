"""A topology file becomes a `Topology`, or one TopologyError with everything that is wrong with it.

Read in this order: `document` (YAML), `schema` and `diagnose` (each field by itself), `partial` (what is usable of a
file with mistakes), `draft` (defaults and short forms written out), `rules` (fields together).
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from netlab import names
from netlab.errors import Problem, TopologyError, UsageError
from netlab.topology.document import Document, Unreadable, read, without_collection
from netlab.topology.draft import expand
from netlab.topology.findings import find_similar, quote, suggest
from netlab.topology.model import ForwarderKind, Proxy, Topology, UdpBackend
from netlab.topology.partial import validate
from netlab.topology.rules import broken_rules
from netlab.topology.schema import BACKENDS

SIZE_MAX = 4 * 2**20
STDIN = "-"
FALLBACK_NAME = "lab"


def load(
    path: str | Path,
    *,
    backend: str | None = None,
    forwarder: str | None = None,
    name: str | None = None,
    proxy: str | None = None,
) -> Topology:
    """Load a topology file, or standard input for `-`.

    `backend` overrides the file's type of backend, `forwarder` that of backend udp, `name` the lab's name, `proxy` the
    mode of nodes that have none of their own. Raises TopologyError, and UsageError for an override that cannot be.
    """
    text, file = read_text(path)
    return load_text(text, file, backend=backend, forwarder=forwarder, name=name, proxy=proxy)


def load_text(
    text: str,
    file: str = "<text>",
    *,
    backend: str | None = None,
    forwarder: str | None = None,
    name: str | None = None,
    proxy: str | None = None,
) -> Topology:
    """Load a topology from text; `file` is what messages call it, and its name is the lab's if the text gives none."""
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"{quote(backend)} is not a backend{suggest(backend, BACKENDS)}")
    if proxy is not None and proxy not in list(Proxy):
        raise UsageError(f"{quote(proxy)} is not a mode of kube-proxy{suggest(proxy, list(Proxy))}")
    if name is not None and (not names.LABEL.match(name) or len(name) > names.LABEL_MAX):
        hint = f"lower-case letters, digits and '-' within, at most {names.LABEL_MAX} of them"
        raise UsageError(f"{quote(name)} cannot be the name of a lab", hint)
    with without_collection():
        topology = _topology(text, file, backend=backend, name=name, proxy=proxy)
    return topology if forwarder is None else _with_forwarder(topology, forwarder)


def _topology(text: str, file: str, *, backend: str | None, name: str | None, proxy: str | None) -> Topology:
    """Make a topology of a text. Raises TopologyError."""
    try:
        document = read(text, file)
    except Unreadable as exc:
        raise TopologyError([exc.problem]) from exc
    if not isinstance(document.value, dict):
        raise TopologyError([*document.problems, _not_a_mapping(document)])
    partial = validate(document)
    if proxy is not None:
        partial.spec = partial.spec.model_copy(update={"proxy": proxy})
    draft = expand(partial, name or partial.spec.name or _name_of_file(file), backend)
    findings = [*partial.findings, *broken_rules(draft)]
    problems = {*document.problems, *(document.problem(finding) for finding in findings)}
    if problems:
        raise TopologyError(sorted(problems))
    return draft.topology()


def _with_forwarder(topology: Topology, forwarder: str) -> Topology:
    """Return the topology with another forwarder. Raises UsageError where there is none, or none of that name."""
    if forwarder not in list(ForwarderKind):
        raise UsageError(f"{quote(forwarder)} is not a forwarder{suggest(forwarder, list(ForwarderKind))}")
    if not isinstance(topology.backend, UdpBackend):
        message = f"the backend {topology.backend.type} has no forwarder: the kernel carries its packets"
        raise UsageError(message, "add `--backend udp`")
    return replace(topology, backend=replace(topology.backend, forwarder=ForwarderKind(forwarder)))


def _not_a_mapping(document: Document) -> Problem:
    """Word a file that holds something else than fields."""
    hint = "`netlab init` writes one to begin with; the shortest is `nodes: 2`"
    if document.value is None:
        return Problem(document.file, 0, 0, "", "is empty", hint)
    found = "a list" if isinstance(document.value, list) else "a single value"
    return Problem(document.file, 1, 1, "", f"expected fields such as `nodes: 2`, found {found}", hint)


def _name_of_file(file: str) -> str:
    """Return the lab name that a file's name gives: its stem, as a DNS label."""
    stem = "" if file.startswith("<") else Path(file).stem.lower()
    label = re.sub("[^a-z0-9]+", "-", stem).strip("-")[: names.LABEL_MAX].strip("-")
    return label or FALLBACK_NAME


def read_text(path: str | Path, *, kind: str = "topology", size_max: int = SIZE_MAX) -> tuple[str, str]:
    """Read a file, or standard input for `-`; return its text and what messages call it.

    `kind` is what the file should be, `size_max` is in bytes. Raises TopologyError.
    """
    file = "<stdin>" if str(path) == STDIN else os.fspath(path)
    return _decode(_read_bytes(path, file, kind, size_max), file), file


def _read_bytes(path: str | Path, file: str, kind: str, size_max: int) -> bytes:
    """Read a file that is not too big. Raises TopologyError."""
    try:
        if str(path) == STDIN:
            return _read_stream(sys.stdin.buffer, file, kind, size_max)
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size > size_max:
                raise _too_big(file, kind, size_max)
            return _read_stream(stream, file, kind, size_max)
    except FileNotFoundError as exc:
        raise TopologyError([Problem(file, 0, 0, "", "there is no such file", _similar_files(Path(path)))]) from exc
    except IsADirectoryError as exc:
        inside = [entry.name for entry in sorted(Path(path).glob("*.y*ml"))]
        hint = f"it holds {', '.join(inside[:5])}" if inside else ""
        raise TopologyError([Problem(file, 0, 0, "", f"is a folder, not a {kind} file", hint)]) from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise TopologyError([Problem(file, 0, 0, "", f"cannot be read: {reason}")]) from exc


def _read_stream(stream: BinaryIO, file: str, kind: str, size_max: int) -> bytes:
    content = stream.read(size_max + 1)
    if len(content) > size_max:
        raise _too_big(file, kind, size_max)
    return content


def _too_big(file: str, kind: str, size_max: int) -> TopologyError:
    message = f"is larger than {size_max // 2**20} MiB, which no {kind} is"
    return TopologyError([Problem(file, 0, 0, "", message, "is it the right file?")])


def _similar_files(path: Path) -> str:
    """Return a hint at a file of a similar name; empty when there is none."""
    with suppress(OSError):
        near = {entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")}
        similar = find_similar(path.name, near) or find_similar(f"{path.name}.yaml", near)
        return f"did you mean {path.with_name(similar)}?" if similar else ""
    return ""


def _decode(content: bytes, file: str) -> str:
    """Decode UTF-8. Raises TopologyError with the place of the first byte that is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        before = content[: exc.start]
        line, line_start = before.count(b"\n") + 1, before.rfind(b"\n") + 1
        column = len(before[line_start:].decode("utf-8", "replace")) + 1
        hint = "save the file as UTF-8"
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            hint = "it looks like UTF-16: save it as UTF-8"
        message = f"is not UTF-8: the byte 0x{content[exc.start]:02x} fits no character here"
        raise TopologyError([Problem(file, line, column, "", message, hint)]) from exc
