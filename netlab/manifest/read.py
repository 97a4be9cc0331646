"""A file of Kubernetes manifests becomes `Manifests`, or one ManifestError with everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from netlab.errors import ManifestError, Problem, TopologyError
from netlab.manifest import words
from netlab.manifest.faults import faults
from netlab.manifest.ignored import Found, count_dns_policy, count_images, count_surge, count_zones, strip, tally
from netlab.manifest.model import Declared, Manifests
from netlab.manifest.values import value_of
from netlab.manifest.workload_schema import KINDS, LIST, AnyObject
from netlab.topology import diagnose
from netlab.topology.document import Document, Value, read_all, without_collection
from netlab.topology.findings import Finding, Loc
from netlab.topology.load import read_text
from netlab.topology.pod import Pod, Workload
from netlab.topology.service import EndpointSlice, Namespace, Service

SIZE_MAX = 32 * 2**20
PROBLEMS_MAX = 1000  # after that many the rest is not looked at


def load(path: str | Path) -> Manifests:
    """Read a file of manifests, or standard input for `-`. Raises ManifestError."""
    return _require(*load_sound(path))


def load_sound(path: str | Path) -> tuple[Manifests, list[Problem]]:
    """Read a file of manifests as `load` does; return what could be read, and what is wrong with the rest."""
    try:
        text, file = read_text(path, kind="manifest", size_max=SIZE_MAX)
    except TopologyError as exc:
        return Manifests(incomplete=True), list(exc.problems)
    return read_sound(text, file)


def read(text: str, file: str = "<text>") -> Manifests:
    """Read manifests from text; `file` is what messages call it. Raises ManifestError."""
    return _require(*read_sound(text, file))


def read_sound(text: str, file: str = "<text>") -> tuple[Manifests, list[Problem]]:
    """Read manifests from text; return what could be read, and what is wrong with the rest."""
    reader = _Reader()
    with without_collection():
        documents, unreadable = read_all(text, file)
        for document in documents:
            reader.read(document)
    problems = {*reader.problems, *([unreadable] if unreadable is not None else [])}
    if not problems and not reader.declared and not reader.found:
        problems.add(Problem(file, 0, 0, "", "holds no object", "an object has apiVersion, kind, metadata and spec"))
    of = reader.declared
    found = Manifests(
        services=tuple(one for one in of if isinstance(one.value, Service)),
        workloads=tuple(one for one in of if isinstance(one.value, Workload)),
        pods=tuple(one for one in of if isinstance(one.value, Pod)),
        slices=tuple(one for one in of if isinstance(one.value, EndpointSlice)),
        ignored=tally(reader.found),
        namespaces=tuple(one for one in of if isinstance(one.value, Namespace)),
        incomplete=reader.incomplete or unreadable is not None,
    )
    return found, sorted(problems)


def _require(found: Manifests, problems: list[Problem]) -> Manifests:
    """Return manifests with which nothing is wrong. Raises ManifestError."""
    if problems:
        raise ManifestError(problems)
    return found


class _Reader:
    """Collects the objects of all documents, and what is wrong with them."""

    def __init__(self) -> None:
        self.declared: list[Declared[Any]] = []
        self.problems: list[Problem] = []
        self.incomplete = False
        self.found: Found = Found()
        self.lines: dict[tuple[str, str, str], int] = {}  # of objects by kind, namespace and name

    def read(self, document: Document) -> None:
        """Read every object of a document."""
        self.problems += document.problems
        if document.root is not None and document.value is not None:
            self._part(document, (), document.value)

    def _part(self, document: Document, loc: Loc, value: Value) -> None:
        """Read an object, or those of a List."""
        if len(self.problems) >= PROBLEMS_MAX:
            self.incomplete = True
            return
        finding = words.unknown_object(value)
        if finding is not None:
            self.incomplete = True
            self._report(document, loc, finding)
        elif value["kind"] == LIST:
            for wrong in words.list_faults(value):
                self._report(document, loc, wrong)
            items = value.get("items")
            for i, item in enumerate(items if isinstance(items, list) else ()):
                self._part(document, (*loc, "items", i), item)
        elif value["kind"] in KINDS:
            self._object(document, loc, value)
        else:
            self.found[value["kind"], "", ""] += 1

    def _object(self, document: Document, loc: Loc, value: dict[str, Value]) -> None:
        """Read one object of a kind that is known."""
        kind = value["kind"]
        self._identify(document, loc, value)
        model = KINDS[kind][1]
        raw = {name: part for name, part in value.items() if name not in ("apiVersion", "kind")}
        raw = strip(raw, model, kind, self.found)
        dialect = words.dialect(kind, loc)
        spec, errors = _validate(model, raw)
        for finding in diagnose.findings(errors, document, dialect):
            self.problems.append(document.problem(finding))
        if errors and all(error["type"] in ("extra_forbidden", "missing") for error in errors):
            spec, _ = _validate(model, _mended(raw, errors, document, dialect))
        if spec is None:
            self.incomplete = True
            return
        for finding in faults(spec):
            self._report(document, loc, finding)
        count_images(spec, kind, self.found)
        count_surge(spec, kind, self.found)
        count_dns_policy(spec, kind, self.found)
        count_zones(spec, kind, self.found)
        self.declared.append(Declared(value_of(spec), kind, document, loc, spec))

    def _identify(self, document: Document, loc: Loc, value: dict[str, Value]) -> None:
        """Refuse an object that was there already."""
        meta = value.get("metadata")
        if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
            return
        namespace = meta.get("namespace") or "default"
        line = document.find((*loc, "metadata", "name")).origin.value.line + 1
        key = (value["kind"], str(namespace), meta["name"])
        if key in self.lines:
            message = f"{value['kind']} {namespace}/{meta['name']} is there already (line {self.lines[key]})"
            self._report(document, loc, Finding(("metadata", "name"), message, "keep one of the two"))
        self.lines.setdefault(key, line)

    def _report(self, document: Document, loc: Loc, finding: Finding) -> None:
        self.problems.append(document.problem(finding.under(loc)))


def _validate(model: type[AnyObject], raw: Value) -> tuple[AnyObject | None, list[ErrorDetails]]:
    """Return the object as its model has it, or what is wrong with its fields."""
    try:
        return model.model_validate(raw), []
    except ValidationError as exc:
        return None, exc.errors(include_url=False, include_input=False)


def _mended(raw: Value, errors: list[ErrorDetails], document: Document, dialect: diagnose.Dialect) -> Value:
    """Give unknown fields the names that were meant, or remove them: so the rest is looked at too."""
    for error in errors:
        if error["type"] != "extra_forbidden":
            continue
        loc, meant = error["loc"], diagnose.find_meant(error, dialect)
        part = raw
        for step in loc[:-1]:
            part = part[step]
        field = part.pop(loc[-1])
        if meant is not None and meant[-1] not in part:
            part[meant[-1]] = field
            document.rename((*dialect.base, *loc), str(meant[-1]))
    return raw
