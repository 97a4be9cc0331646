"""As much of a file as can be used: what is wrong is mended or left out, so that the rest is checked too.

One wrong entry of `pods` must not hide that another pod sits on a node that does not exist. A rule that would be
misled by what is missing is not asked (`rules.RULES`); nobody is told of mistakes that are none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from netlab.topology import diagnose
from netlab.topology.document import Document, Value, select
from netlab.topology.fields import entries
from netlab.topology.findings import Finding, Loc, Placed
from netlab.topology.pod_schema import PodSpec
from netlab.topology.schema import CheckSpec, NodeSpec, TopologyFile
from netlab.topology.service_schema import ServiceSpec

Raw = dict[str, Value]

# What stands in for an entry that is wrong, so that the others keep their numbers.
PLACEHOLDERS: dict[str, BaseModel] = {
    "nodes": NodeSpec.model_construct(name=""),
    "external": NodeSpec.model_construct(name=""),
    "pods": PodSpec.model_construct(name=""),
    "services": ServiceSpec.model_construct(name=""),
    "checks": CheckSpec.model_construct(source="", target=""),
}
# The fields of an entry that may be left out alone: no rule takes their absence for something else.
HARMLESS = frozenset({"labels", "hostAliases", "containers", "ip"})
MEMBER_SECTIONS = frozenset({"nodes", "external", "pods", "underlay"})
ROUNDS = 5


@dataclass(slots=True)
class Partial:
    """A file with its wrong parts left out. `broken` names the top-level fields that lack something for it.

    lost: the entries that are left out. lost_names: their names by section, where "" stands for any.
    order: the top-level fields as they stand in the file.
    """

    spec: TopologyFile
    order: list[str]
    findings: list[Finding] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    lost: set[Loc] = field(default_factory=set)
    lost_names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def entries(self, section: str) -> Iterator[Placed[Any]]:
        """Yield the usable entries of a list with their places."""
        for number, entry in enumerate(getattr(self.spec, section)):
            loc = (section, number)
            if loc not in self.lost:
                yield Placed(loc, entry)

    def may_name(self, name: str, sections: Collection[str] = MEMBER_SECTIONS) -> bool:
        """Say whether a name may belong to an entry of some sections that was left out."""
        stem = name.rpartition("-")[0]  # of replicas
        return any(not {"", name, stem}.isdisjoint(self.lost_names[section]) for section in sections)


def validate(document: Document) -> Partial:
    """Check every field by itself. The document must be a mapping."""
    raw = {name: value for name, value in document.value.items() if not name.startswith("x-")}
    errors: list[ErrorDetails] = []
    partial = Partial(TopologyFile.model_construct(), list(raw))
    try:
        partial.spec = TopologyFile.model_validate(raw)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        partial.findings = list(diagnose.findings(errors, document))
    if len(errors) >= diagnose.FINDINGS_MAX:
        partial.spec = _nothing(partial)
    elif errors or document.doubtful:
        raw = deepcopy(raw)
        for loc in document.doubtful[: diagnose.FINDINGS_MAX]:
            _leave_out(raw, _numbered(loc, document.value), partial)
        for error in errors:
            _mend(raw, error, document)
        partial.spec = _validate_rest(raw, partial)
    return partial


def _validate_rest(raw: Raw, partial: Partial) -> TopologyFile:
    """Leave out whatever pydantic finds fault with until it finds none."""
    for _ in range(ROUNDS):
        try:
            return TopologyFile.model_validate(_with_placeholders(raw, partial))
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_input=False):
                _leave_out(raw, diagnose.file_loc(error["loc"]), partial)
    return _nothing(partial)


def _nothing(partial: Partial) -> TopologyFile:
    """Leave everything out."""
    partial.broken |= set(partial.order)
    for section in MEMBER_SECTIONS:
        partial.lost_names[section].add("")
    return TopologyFile.model_validate(_with_placeholders({}, partial))


def _mend(raw: Raw, error: ErrorDetails, document: Document) -> None:
    """Give an unknown field the name that was meant, or remove it."""
    if error["type"] != "extra_forbidden":
        return
    loc, meant = diagnose.file_loc(error["loc"]), diagnose.find_meant(error)
    part: Value = raw
    for step in loc[:-1]:
        key = select(part, step)
        part = part[key] if key is not None else None
    if isinstance(part, dict) and loc[-1] in part:
        value = part.pop(loc[-1])
        if meant is not None and meant[-1] != "name" and meant[-1] not in part:
            part[meant[-1]] = value
            document.rename(loc, str(meant[-1]))


def _numbered(loc: Loc, value: Raw) -> Loc:
    """Return a path of the file with an entry's number in place of the name that it has in a mapping."""
    if len(loc) > 1 and loc[0] in PLACEHOLDERS and isinstance(value[str(loc[0])], dict):
        return (loc[0], list(value[str(loc[0])]).index(loc[1]), *loc[2:])
    return loc


def _leave_out(raw: Raw, loc: Loc, partial: Partial) -> None:
    """Remove the smallest part around a field that does no harm when it is missing."""
    if not loc or loc[0] not in raw:
        return
    section = str(loc[0])
    partial.broken.add(section)
    if section in PLACEHOLDERS and len(loc) > 1:
        key = select(raw[section], loc[1])
        entry = raw[section][key] if key is not None else None
        if len(loc) > 2 and loc[2] in HARMLESS and isinstance(entry, dict) and loc[2] in entry:
            del entry[loc[2]]
        else:
            partial.lost.add((section, loc[1]))
    elif section == "underlay" and len(loc) > 1 and isinstance(raw[section], dict) and loc[1] in raw[section]:
        del raw[section][loc[1]]
        if loc[1] == "routers":
            partial.lost_names[section].add("")
    else:
        del raw[section]
        if section in MEMBER_SECTIONS:
            partial.lost_names[section].add("")


def _with_placeholders(raw: Raw, partial: Partial) -> Raw:
    """Return the file with placeholders for the entries that are lost, whose names are remembered."""
    filled = dict(raw)
    for section, placeholder in PLACEHOLDERS.items():
        numbers = {int(loc[1]) for loc in partial.lost if loc[0] == section}
        if numbers and section in raw:
            filled[section] = entries(None)(raw[section])
            for number in numbers:
                entry = filled[section][number]
                name = entry.get("name") if isinstance(entry, dict) else None
                partial.lost_names[section].add(name if isinstance(name, str) else "")
                filled[section][number] = placeholder
    if "nodes" not in filled:
        filled["nodes"] = [PLACEHOLDERS["nodes"]]
        partial.broken.add("nodes")
        partial.lost.add(("nodes", 0))
        partial.lost_names["nodes"].add("")
    return filled
