"""YAML's own error messages, put in words that say what to change.

The parser reports where it gave up, in the terms of its grammar. Where the real mistake is earlier (a quote or a
bracket that is never closed) the problem points there.
"""

from __future__ import annotations

import yaml

from netlab.errors import Problem
from netlab.topology.findings import quote

DEPTH_MAX = 32  # of a file's values
FLOW = "text that holds ': ' or one of , [ ] { } needs quotes there"
INDENTATION = "check the indentation of this line and of the line before"

# (part of the parser's message, what to say, hint); {line} is where the construct began. The first match counts.
SENTENCES = (
    (
        "mapping values are not allowed",
        "there is a ':' where no field can begin",
        f"{INDENTATION}; text that holds ': ' needs quotes",
    ),
    ("expected ',' or ']'", "the list that begins with [ on line {line} has no ',' or ']' here", FLOW),
    ("expected ',' or '}'", "the mapping that begins with {{ on line {line} has no ',' or '}}' here", FLOW),
    ("could not find expected ':'", "this line has no ':'", "a field is written `name: value`"),
    ("did not find expected key", "this line fits no field of the mapping that begins on line {line}", INDENTATION),
    ("expected '-' indicator", "this line is no entry of the list that begins on line {line}", INDENTATION),
    (
        "sequence entries are not allowed",
        "a list cannot begin here",
        "put each `- ` on a line of its own, or write the list as [a, b]",
    ),
    (
        "unknown escape character",
        "a backslash in double quotes begins an escape that YAML does not know",
        "use single quotes",
    ),
    ("exceeded maximum nesting depth", f"is nested more than {DEPTH_MAX} levels deep", ""),  # newer libyaml: 1000
    ("found incompatible YAML document", "asks for a version of YAML other than 1.1", "leave the %YAML line out"),
)
NEVER_CLOSED = (
    ("quoted scalar", "this quote is never closed"),
    ("flow sequence", "this [ is never closed"),
    ("flow mapping", "this { is never closed"),
)


def explain(exc: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    """Return the problem that the parser ran into."""
    mark, context = exc.problem_mark or exc.context_mark, exc.context_mark
    if mark is None:
        return Problem(file, 0, 0, "", f"is not YAML: {exc}")
    lines = text.split("\n")
    if context is not None and mark.line >= len(text.rstrip().split("\n")):
        for construct, sentence in NEVER_CLOSED:
            if construct in (exc.context or ""):
                return Problem(file, context.line + 1, context.column + 1, "", sentence)
    at = context if context is not None and "expected ':'" in (exc.problem or "") else mark
    line = lines[at.line] if at.line < len(lines) else ""
    message, hint = _word(exc, line, at.column)
    return Problem(file, at.line + 1, at.column + 1, "", message, hint)


def _word(exc: yaml.MarkedYAMLError, line: str, column: int) -> tuple[str, str]:
    """Return message and hint for a mistake in a line."""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "this line is indented with a tab", "YAML takes spaces only"
    problem = exc.problem or ""
    if "cannot start any token" in problem or "expected node content" in problem:
        return f"text cannot begin with {quote(line[column : column + 1])}", "put it in quotes"
    began = exc.context_mark.line + 1 if exc.context_mark is not None else 0
    for part, sentence, hint in SENTENCES:
        if part in problem:
            return sentence.format(line=began), hint
    context = f"{exc.context}: " if exc.context else ""
    return f"is not YAML: {context}{problem}", ""
