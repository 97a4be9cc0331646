"""As much of a file as can be used: what is wrong is left out, and remembered, so that the rest is checked too.

One wrong entry of `pods` must not hide that another pod sits on a node that does not exist. A rule that would be
misled by what is missing is not asked (`rules.RULES`); nobody is told of mistakes that are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from netlab.topology import diagnose
from netlab.topology.document import Document
from netlab.topology.fields import entries
from netlab.topology.findings import Finding, Loc, Placed
from netlab.topology.schema import CheckSpec, NodeSpec, PodSpec, TopologyFile

# What stands in for an entry that is wrong, so that the others keep their numbers.
PLACEHOLDERS: dict[str, BaseModel] = {
    "nodes": NodeSpec.model_construct(name=""),
    "external": NodeSpec.model_construct(name=""),
    "pods": PodSpec.model_construct(name=""),
    "checks": CheckSpec.model_construct(source="", target=""),
}
MEMBER_SECTIONS = frozenset({"nodes", "external", "pods", "underlay"})


@dataclass(slots=True)
class Partial:
    """A file with its wrong parts left out. `broken` names the top-level fields that have any."""

    spec: TopologyFile
    findings: list[Finding] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    lost: set[Loc] = field(default_factory=set)
    lost_names: set[str] = field(default_factory=set)
    any_name_lost: bool = False

    def entries(self, section: str) -> Iterator[Placed[Any]]:
        """Yield the usable entries of a list with their places."""
        for number, entry in enumerate(getattr(self.spec, section)):
            loc = (section, number)
            if loc not in self.lost:
                yield Placed(loc, entry)

    def may_name(self, name: str) -> bool:
        """Say whether a name may belong to an entry that was left out."""
        return self.any_name_lost or any(name == lost or name.startswith(f"{lost}-") for lost in self.lost_names)


def validate(document: Document) -> Partial:
    """Check every field by itself. The document must be a mapping."""
    raw = {name: value for name, value in document.value.items() if not name.startswith("x-")}
    try:
        partial = Partial(TopologyFile.model_validate(raw))
    except ValidationError as exc:
        partial = _without_faults(raw, exc, document)
    partial.broken |= document.doubtful
    partial.any_name_lost |= bool(document.doubtful & MEMBER_SECTIONS)
    return partial


def _without_faults(raw: dict[str, Any], error: ValidationError, document: Document) -> Partial:
    """Return what is left of a file when all that pydantic found fault with is taken out."""
    partial = Partial(TopologyFile.model_construct(), list(diagnose.findings(error, document)))
    for fault in error.errors(include_url=False, include_input=False):
        loc = diagnose.file_loc(fault["loc"])
        section = str(loc[0])
        partial.broken.add(section)
        if fault["type"] == "extra_forbidden" and len(loc) == 1:
            del raw[section]
            meant = diagnose.find_meant(fault)
            partial.broken.add(str(meant[0]) if meant else section)
        elif section in PLACEHOLDERS and len(loc) > 1:
            partial.lost.add((section, loc[1]))
        elif section == "underlay" and len(loc) > 1 and isinstance(raw.get(section), dict):
            raw[section] = {name: value for name, value in raw[section].items() if name != loc[1]}
            partial.any_name_lost |= loc[1] == "routers"
        else:
            raw.pop(section, None)
            partial.any_name_lost |= section in MEMBER_SECTIONS
    _put_placeholders(raw, partial)
    partial.spec = TopologyFile.model_validate(raw)
    return partial


def _put_placeholders(raw: dict[str, Any], partial: Partial) -> None:
    """Replace entries that are lost, and remember their names."""
    for section, placeholder in PLACEHOLDERS.items():
        numbers = {loc[1] for loc in partial.lost if loc[0] == section}
        if numbers and section in raw:
            listed = entries(None)(raw[section])
            for number in numbers:
                name = listed[number].get("name") if isinstance(listed[number], dict) else None
                if isinstance(name, str):
                    partial.lost_names.add(name)
                elif section != "checks":
                    partial.any_name_lost = True
                listed[number] = placeholder
            raw[section] = listed
    if "nodes" not in raw:
        raw["nodes"] = [PLACEHOLDERS["nodes"]]
        partial.lost.add(("nodes", 0))
