"""What a file of Kubernetes manifests declares: values of the model, each with its place, and what was ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from netlab.errors import Problem
from netlab.topology.document import Document
from netlab.topology.findings import Finding, Loc, listed
from netlab.topology.pod import Pod, Workload
from netlab.topology.service import EndpointSlice, Namespace, Service
from netlab.topology.spec import Spec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Declared(Generic[T]):
    """A value and where it stands: `loc` is its path in the document. `spec` is the object as the file has it."""

    value: T
    kind: str
    document: Document = field(repr=False, compare=False)
    loc: Loc = field(repr=False, compare=False)
    spec: Spec = field(repr=False, compare=False)

    @property
    def file(self) -> str:
        """Return what messages call the file."""
        return self.document.file

    @property
    def line(self) -> int:
        """Return the line that it begins on, from 1."""
        mark = self.document.find(self.loc).origin.value
        return int(mark.line) + 1

    def seen_from(self, other: Declared[Any]) -> str:
        """Return where this is, for a message about another object: its line, with the file if that is another."""
        return f"line {self.line}" if self.file == other.file else f"{self.file}:{self.line}"

    def problem(self, finding: Finding) -> Problem:
        """Return the problem of a field; its path is relative to the object."""
        return self.document.problem(finding.under(self.loc))


@dataclass(frozen=True, slots=True, order=True)
class Ignored:
    """A field that does nothing here, or with an empty path an object.

    `note` says what that means; empty: it does not touch the network.
    """

    kind: str
    path: str
    count: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Manifests:
    """Everything that one file declares, in its order; `incomplete`: an object could not be read."""

    services: tuple[Declared[Service], ...] = ()
    workloads: tuple[Declared[Workload], ...] = ()
    pods: tuple[Declared[Pod], ...] = ()
    slices: tuple[Declared[EndpointSlice], ...] = ()
    ignored: tuple[Ignored, ...] = ()
    namespaces: tuple[Declared[Namespace], ...] = ()
    incomplete: bool = False

    def ignored_lines(self) -> list[str]:
        """Return one line for each kind with fields that do not touch the network, and one for each other note."""
        plain: dict[str, list[str]] = {}
        lines: list[str] = []
        for one in self.ignored:
            if one.note:
                lines.append(f"{one.kind}: {one.path}: {one.note}")
            elif not one.path:
                lines.append(f"{one.kind}: ignored: it does not touch the network")
            else:
                plain.setdefault(one.kind, []).append(one.path.rpartition(".")[2])
        for kind, names in plain.items():
            lines.append(f"{kind}: ignored, since they do not touch the network: {listed(dict.fromkeys(names))}")
        return sorted(lines)


def merge(files: Sequence[Manifests]) -> Manifests:
    """Return what several files declare together, to be held against a lab as one."""
    return Manifests(
        services=tuple(one for file in files for one in file.services),
        workloads=tuple(one for file in files for one in file.workloads),
        pods=tuple(one for file in files for one in file.pods),
        slices=tuple(one for file in files for one in file.slices),
        ignored=tuple(sorted(one for file in files for one in file.ignored)),
        namespaces=tuple(one for file in files for one in file.namespaces),
        incomplete=any(file.incomplete for file in files),
    )
