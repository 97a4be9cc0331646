"""YAML text becomes plain Python values, and every value keeps the line and column where it stands.

The events of PyYAML's parser are folded by hand rather than by its composer. So nesting costs no recursion, aliases
cannot expand without limit, and a file that is too big is noticed before it is in memory. Mistakes of YAML that leave
the meaning clear (a key given twice) are collected; the others end the reading.

A mapping's key is always text here: `1: x` and `"1": x` are one key, whatever YAML would make of it.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from netlab.errors import Problem
from netlab.topology import scalars
from netlab.topology.findings import Finding, Loc, counted, quote
from netlab.topology.syntax import DEPTH_MAX, explain

VALUES_MAX = 500_000
PATH_SHOWN = 80
PLAIN_KEY = re.compile(r"[\w.-]{1,63}\Z")
# What YAML 1.1 allows in a file, as yaml.reader has it.
NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Value = Any  # None, bool, int, float, str, Unclear, list[Value] or dict[str, Value]
Mark = Any  # yaml.Mark, of the C or of the Python parser: `line` and `column` count from 0
Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(Exception):
    """The text cannot be read any further; carries the last problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Origin(NamedTuple):
    """Where a value stands: the marks of its key and itself, and its text when it is a scalar."""

    key: Mark | None
    value: Mark
    text: str | None


class Place(NamedTuple):
    """A field as the user wrote it: its path, where it begins, its value and its key in what holds it."""

    path: str
    origin: Origin
    value: Value
    key: str | int | None = None


@dataclass(slots=True)
class Document:
    """One YAML document. `doubtful` holds the paths of values that may not be what was meant."""

    file: str
    value: Value = None
    root: Origin | None = None
    problems: list[Problem] = field(default_factory=list)
    doubtful: list[Loc] = field(default_factory=list)
    origins: dict[int, dict[str | int, Origin]] = field(default_factory=dict)  # by id() of the list or mapping
    renamed: dict[tuple[int, str | int], str] = field(default_factory=dict)  # by id() and the name that was meant

    def find(self, loc: Loc) -> Place:
        """Return the field at a path, or the innermost value around it that is in the file.

        Lists of named entries may be written as mappings by name: so a number selects the n-th entry of a mapping
        too, and the `name` of such an entry is its key.
        """
        assert self.root is not None
        place, is_named = Place("", self.root, self.value), False
        for step in loc:
            key = select(place.value, self.renamed.get((id(place.value), step), step))
            if key is None and step == "name" and is_named:
                return place._replace(
                    origin=Origin(place.origin.key, place.origin.key, str(place.key)), value=place.key
                )
            if key is None:
                break
            is_named = isinstance(step, int) and isinstance(key, str)
            place = Place(_join(place.path, key), self.origins[id(place.value)][key], place.value[key], key)
        return place

    def rename(self, loc: Loc, meant: str) -> None:
        """Find a field by the name that was meant from now on."""
        self.renamed[id(self.find(loc[:-1]).value), meant] = str(loc[-1])

    def problem(self, finding: Finding) -> Problem:
        """Give a finding its line and column."""
        place = self.find(finding.loc)
        mark = place.origin.key if finding.at_key and place.origin.key else place.origin.value
        message = finding.message
        if finding.first is not None:
            message += f" (line {self.find(finding.first).origin.value.line + 1})"
        return Problem(self.file, mark.line + 1, mark.column + 1, place.path, message, finding.hint)


def select(value: Value, step: str | int) -> str | int | None:
    """Return the key of `value` that a step of a path means; None when there is none."""
    if isinstance(value, list):
        return step if isinstance(step, int) and step < len(value) else None
    if not isinstance(value, dict):
        return None
    if isinstance(step, int):
        return next((key for position, key in enumerate(value) if position == step), None)
    if step in value:
        return step
    return next((key for key in value if key.casefold() == step.casefold()), None)


def _join(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    shown = key if PLAIN_KEY.match(key) else quote(key)
    return f"{path}.{shown}" if path else shown


def read(text: str, file: str) -> Document:
    """Parse text that holds one YAML document. Raises Unreadable."""
    folder = _Folder(file, "a topology file", several=False)
    _fold(text, folder)
    return folder.document


def read_all(text: str, file: str) -> tuple[list[Document], Problem | None]:
    """Parse text that holds any number of YAML documents: manifests.

    Where the text cannot be read any further, the documents before that place are returned with the problem. A
    document without `root` holds nothing, or was not read to its end.
    """
    folder = _Folder(file, "a manifest", several=True)
    try:
        _fold(text, folder)
    except Unreadable as exc:
        return folder.documents, exc.problem
    return folder.documents, None


@contextmanager
def without_collection() -> Iterator[None]:
    """Put the cycle collector off while a file's values are made: it would look through them all again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _fold(text: str, folder: _Folder) -> None:
    """Read every event of a text. Raises Unreadable."""
    text = text.removeprefix("\ufeff")
    _refuse_control_characters(text, folder.file)
    parser = Parser(text)
    try:
        folder.fold(iter(parser.get_event, None))
    except yaml.MarkedYAMLError as exc:
        raise Unreadable(explain(exc, text, folder.file)) from exc
    except yaml.YAMLError as exc:
        raise Unreadable(Problem(folder.file, 0, 0, "", f"is not YAML: {exc}")) from exc
    finally:
        parser.dispose()


def _refuse_control_characters(text: str, file: str) -> None:
    found = NOT_PRINTABLE.search(text)
    if found is None:
        return
    before = text[: found.start()]
    line, column = before.count("\n") + 1, found.start() - before.rfind("\n")
    name = "a NUL character" if found[0] == "\0" else f"the control character {found[0]!r}"
    raise Unreadable(Problem(file, line, column, "", f"holds {name}, which YAML does not allow", "is it a text file?"))


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being filled."""

    start: yaml.CollectionStartEvent
    container: Value
    origins: dict[str | int, Origin]
    size_before: int
    key: yaml.ScalarEvent | None = None
    included: list[Value] = field(default_factory=list)  # of `<<`


class _Folder:
    """Fold parser events into Documents, of which the last is `document`. `kind` is what the file is called."""

    def __init__(self, file: str, kind: str, *, several: bool) -> None:
        self.file = file
        self.kind = kind
        self.several = several
        self.document = Document(file)
        self.documents = [self.document]
        self.stack: list[_Frame] = []
        self.size = 0  # of all values, each alias counted in full
        self.anchors: dict[str, tuple[Value, str | None, int] | None] = {}  # None while it is being filled

    def fold(self, events: Iterable[yaml.Event]) -> None:
        """Read every event, in order."""
        for event in events:
            match event:
                case yaml.ScalarEvent():
                    self.scalar(event)
                case yaml.CollectionStartEvent():
                    self.open(event)
                case yaml.CollectionEndEvent():
                    self.close()
                case yaml.AliasEvent():
                    self.alias(event)
                case yaml.DocumentStartEvent() if self.document.root is not None:
                    self.next_document(event)
                case yaml.StreamEndEvent():
                    return

    def next_document(self, event: yaml.Event) -> None:
        """Begin another document; anchors do not reach from one to the next."""
        if not self.several:
            raise self.stop(event, f"a second YAML document starts here; {self.kind} holds one")
        self.document = Document(self.file)
        self.documents.append(self.document)
        self.anchors.clear()

    def scalar(self, event: yaml.ScalarEvent) -> None:
        """Take a key or a single value."""
        frame = self.stack[-1] if self.stack else None
        self.refuse_tag(event, "str")
        if "\0" in event.value:
            raise self.stop(event, "holds a NUL character, which no name or command can")
        value = scalars.scalar(event)
        if event.anchor:
            self.anchors[event.anchor] = (value, event.value, 1)
        if frame is not None and frame.key is None and type(frame.container) is dict:
            self.take_key(frame, event)
            return
        self.grow(event, 1)
        self.put(event, value, event.value)

    def take_key(self, frame: _Frame, event: yaml.ScalarEvent) -> None:
        """Remember a key until its value comes."""
        frame.key = event
        if event.value in frame.container:
            first = frame.origins[event.value].key
            assert first is not None
            message = f"this key is given twice (first on line {first.line + 1})"
            self.report(event, message, "keep one of the two: YAML would drop the other silently")

    def open(self, event: yaml.CollectionStartEvent) -> None:
        """Begin a list or mapping."""
        if self.stack and self.stack[-1].key is None and type(self.stack[-1].container) is dict:
            raise self.stop(event, "a list or mapping cannot be a key", "a value that begins with { or [ needs quotes")
        if len(self.stack) >= DEPTH_MAX:
            raise self.stop(event, f"is nested more than {DEPTH_MAX} levels deep")
        is_mapping = type(event) is yaml.MappingStartEvent
        self.refuse_tag(event, "map" if is_mapping else "seq")
        container: Value = {} if is_mapping else []
        origins: dict[str | int, Origin] = {}
        self.document.origins[id(container)] = origins
        self.grow(event, 1)
        self.stack.append(_Frame(event, container, origins, self.size))
        if event.anchor:
            self.anchors[event.anchor] = None

    def close(self) -> None:
        """End a list or mapping."""
        frame = self.stack.pop()
        for included in frame.included:
            for key, value in included.items():
                if key not in frame.container:
                    frame.container[key] = value
                    frame.origins[key] = self.document.origins[id(included)][key]
        if frame.start.anchor:
            self.anchors[frame.start.anchor] = (frame.container, None, self.size - frame.size_before + 1)
        self.put(frame.start, frame.container, None)

    def alias(self, event: yaml.AliasEvent) -> None:
        """Take the value that an anchor named."""
        name = event.anchor
        if name not in self.anchors:
            raise self.stop(
                event, f"*{name} has no anchor &{name} before it", "a value that begins with * needs quotes"
            )
        anchored = self.anchors[name]
        if anchored is None:
            raise self.stop(event, f"*{name} stands inside of &{name} and would hold itself")
        if self.stack and self.stack[-1].key is None and type(self.stack[-1].container) is dict:
            raise self.stop(event, f"the alias *{name} cannot be a key")
        value, text, size = anchored
        self.grow(event, size)
        self.put(event, value, text)

    def put(self, event: yaml.Event, value: Value, text: str | None) -> None:
        """Store a value where it belongs: in the open list or mapping, or as the whole document."""
        if not self.stack:
            self.document.value, self.document.root = value, Origin(None, event.start_mark, text)
            return
        frame = self.stack[-1]
        if type(frame.container) is list:
            frame.origins[len(frame.container)] = Origin(None, event.start_mark, text)
            frame.container.append(value)
            return
        key, frame.key = frame.key, None
        assert key is not None
        if scalars.is_merge_key(key):
            self.include(frame, event, value)
        elif key.value not in frame.container:
            frame.origins[key.value] = Origin(key.start_mark, event.start_mark, text)
            frame.container[key.value] = value

    def include(self, frame: _Frame, event: yaml.Event, value: Value) -> None:
        """Take the value of a `<<` key."""
        sources = value if isinstance(value, list) and value else [value]
        if type(event) is yaml.AliasEvent and all(isinstance(source, dict) for source in sources):
            frame.included += sources
        else:
            self.report(event, "`<<` includes a mapping by its alias, as in `<<: *defaults`")

    def grow(self, event: yaml.Event, size: int) -> None:
        """Count values. Raises Unreadable beyond the limit."""
        self.size += size
        if self.size > VALUES_MAX:
            cause = "aliases expand the file to" if type(event) is yaml.AliasEvent else "the file holds"
            hint = "an alias copies all that its anchor holds" if type(event) is yaml.AliasEvent else ""
            raise self.stop(event, f"{cause} more than {counted(VALUES_MAX, 'value')}", hint)

    def refuse_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, allowed: str) -> None:
        """Report a tag other than the one that says nothing new."""
        if event.tag not in (None, scalars.TAG + allowed, "!"):
            shown = event.tag.replace(scalars.TAG, "!!")
            hint = "leave it out; a value that begins with ! needs quotes"
            self.report(event, f"the YAML tag {quote(shown)} means nothing in {self.kind}", hint)

    def report(self, event: yaml.Event, message: str, hint: str = "") -> None:
        """Collect a problem and go on."""
        self.document.problems.append(self.stop(event, message, hint).problem)
        self.document.doubtful.append(self.loc())

    def stop(self, event: yaml.Event, message: str, hint: str = "") -> Unreadable:
        """Return the problem at an event, to be raised."""
        mark: Mark = event.start_mark
        return Unreadable(Problem(self.file, mark.line + 1, mark.column + 1, self.path(), message, hint))

    def loc(self) -> Loc:
        """Return the path of the value that is being read."""
        steps: list[str | int] = []
        for frame in self.stack:
            if type(frame.container) is list:
                steps.append(len(frame.container))
            elif frame.key is not None:
                steps.append(frame.key.value)
        return tuple(steps)

    def path(self) -> str:
        """Return the same as text."""
        path = ""
        for step in self.loc():
            path = _join(path, step)
        return path if len(path) <= PATH_SHOWN else path[: PATH_SHOWN - 3] + "..."
