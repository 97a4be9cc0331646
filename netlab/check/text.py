"""A check's report as lines of text and as JSON. Pure.

Read in order: `render` (the whole page), the matrix of members, the matrix or summary of nodes where there are too many
members for that, the lists of what failed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from netlab.check.model import Finding, Member, Probe, Report, Result
from netlab.topology.model import CheckProtocol

TARGETS_MAX = 12  # columns of a matrix
SOURCES_MAX = 24  # rows of a matrix
LISTED_MAX = 20  # failures that are listed one by one
REASONS_MAX = 5
LABEL_LEAST = 8  # a row's label is not cut shorter than this
MARKS = {Result.OK: "ok", Result.FAIL: "FAIL", Result.BY_DESIGN: "-", Result.AGAINST_DESIGN: "ok!"}

Cells = Mapping[tuple[str, str], str]


def render(report: Report, width: int = 80) -> list[str]:
    """Return a report as lines of at most `width` columns as far as the names allow."""
    families = sorted({finding.probe.family for finding in report.pairs})
    lines: list[str] = []
    for family in families:
        pairs = [finding for finding in report.pairs if finding.probe.family == family]
        heading = [f"IPv{family}"] if len(families) > 1 else []
        lines += [*heading, *_overview(pairs, width), ""]
    lines += _designed(report.pairs)
    lines += _listed(report.pairs, Result.AGAINST_DESIGN, "reached against the design (ok!)")
    lines += _listed(report.pairs, Result.FAIL, "failed")
    if report.checks:
        lines += ["checks:", *(f"  {_check_line(finding)}" for finding in report.checks), ""]
    return [*lines, _total(report)]


def _overview(pairs: Sequence[Finding], width: int) -> list[str]:
    """Return the most detailed table that fits: members, nodes, or else a summary."""
    return _member_matrix(pairs, width) or _node_matrix(pairs, width) or _summary(pairs)


# --- matrices --------------------------------------------------------------------------------------------------------


def _member_matrix(pairs: Sequence[Finding], width: int) -> list[str]:
    """Return one row for each source and one column for each target; nothing when there are too many."""
    sources, targets = _ends(pairs, lambda member: member.name)
    if len(sources) > SOURCES_MAX or len(targets) > TARGETS_MAX:
        return []
    cells = {(found.probe.source.name, found.probe.target.name): MARKS[found.verdict.result] for found in pairs}
    return _table(sources, targets, cells, width)


def _node_matrix(pairs: Sequence[Finding], width: int) -> list[str]:
    """Return one row and column for each node: how many answered of those asked; nothing when there are too many."""
    sources, targets = _ends(pairs, lambda member: member.node)
    if len(sources) > TARGETS_MAX or len(targets) > TARGETS_MAX:
        return []
    results: dict[tuple[str, str], Counter[Result]] = defaultdict(Counter)
    for found in pairs:
        results[found.probe.source.node, found.probe.target.node][found.verdict.result] += 1
    return _table(sources, targets, {place: _tally(counted) for place, counted in results.items()}, width)


def _tally(counted: Counter[Result]) -> str:
    """Return `all` when all answered, `some/all` when not, and `-` when none can by design."""
    asked = counted.total()
    if counted[Result.BY_DESIGN] == asked:
        return MARKS[Result.BY_DESIGN]
    answered = counted[Result.OK] + counted[Result.AGAINST_DESIGN]
    return str(asked) if answered == asked else f"{answered}/{asked}"


def _ends(pairs: Iterable[Finding], key: Callable[[Member], str]) -> tuple[list[str], list[str]]:
    """Return the sources and the targets, each once. Every target is a source too, and stands in that order."""
    sources = list(dict.fromkeys(key(found.probe.source) for found in pairs))
    asked = {key(found.probe.target) for found in pairs}
    return sources, [name for name in sources if name in asked]


def _table(rows: Sequence[str], columns: Sequence[str], cells: Cells, width: int) -> list[str]:
    """Lay a matrix out. Column heads are names where they fit, else numbers that the rows bear too; else nothing."""
    cell = max((len(text) for text in cells.values()), default=1)
    label = max(map(len, rows), default=0)
    widths = [max(cell, len(name)) + 2 for name in columns]
    labels, heads = dict(zip(rows, rows, strict=True)), list(columns)
    if label + sum(widths) > width:
        heads = [str(number) for number in range(1, len(columns) + 1)]
        widths = [max(cell, len(heads[-1])) + 1] * len(columns)
        label = width - sum(widths)
        if label < LABEL_LEAST:
            return []
        numbers = dict(zip(columns, heads, strict=True))
        labels = {name: _cut(f"{numbers.get(name, ''):>2} {name}", label) for name in rows}
        label = max(map(len, labels.values()))
    lines = [_line("", heads, label, widths)]
    for row in rows:
        lines.append(_line(labels[row], [cells.get((row, column), "") for column in columns], label, widths))
    return lines


def _line(label: str, texts: Iterable[str], label_width: int, widths: Iterable[int]) -> str:
    cells = (text.rjust(width) for text, width in zip(texts, widths, strict=True))
    return (label.ljust(label_width) + "".join(cells)).rstrip()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "~"


def _summary(pairs: Sequence[Finding]) -> list[str]:
    """Return counts within and between nodes, and the nodes with the most failures."""
    lines = []
    for title, within in (("within a node", True), ("between nodes", False)):
        some = [found for found in pairs if (found.probe.source.node == found.probe.target.node) is within]
        if some:
            answered = sum(found.verdict.result in (Result.OK, Result.AGAINST_DESIGN) for found in some)
            designed = sum(found.verdict.result is Result.BY_DESIGN for found in some)
            excuse = f", {designed:,} cannot by design" if designed else ""
            lines.append(f"{title}: {answered:,} of {len(some):,} answered{excuse}")
    failed: Counter[str] = Counter()
    for found in pairs:
        if not found.verdict.ok:
            failed.update(dict.fromkeys((found.probe.source.node, found.probe.target.node), 1))
    lines += [f"  {node}: {count:,} failed from or to it" for node, count in failed.most_common(REASONS_MAX)]
    return lines


# --- lists -----------------------------------------------------------------------------------------------------------


def _designed(pairs: Iterable[Finding]) -> list[str]:
    """Say why the backend cannot do what is marked `-`."""
    reasons = Counter(found.probe.by_design for found in pairs if found.verdict.result is Result.BY_DESIGN)
    lines = [f"- by design, {count:,} probes: {reason}" for reason, count in reasons.most_common(REASONS_MAX)]
    if len(reasons) > REASONS_MAX:
        lines.append(f"- and {len(reasons) - REASONS_MAX:,} more reasons of the kind")
    return [*lines, ""] if lines else []


def _listed(pairs: Iterable[Finding], result: Result, title: str) -> list[str]:
    found = [finding for finding in pairs if finding.verdict.result is result]
    if not found:
        return []
    lines = [f"{title}:", *(f"  {_pair(finding.probe)}: {finding.verdict.reason}" for finding in found[:LISTED_MAX])]
    if len(found) > LISTED_MAX:
        lines.append(f"  and {len(found) - LISTED_MAX:,} more")
    return [*lines, ""]


def _pair(probe: Probe) -> str:
    target = probe.target.name
    return f"{probe.source.name} -> {target}" + ("" if target == str(probe.address) else f" ({probe.address})")


def _check_line(finding: Finding) -> str:
    probe, verdict = finding.probe, finding.verdict
    asked = f"tcp {probe.port}" if probe.protocol is CheckProtocol.TCP else "icmp"
    asked += f" of {probe.size} bytes" if probe.size else ""
    if not verdict.ok:
        return f"FAIL  {_pair(probe)} {asked}: wanted {probe.expect}, but {verdict.reason}"
    seen = verdict.reason or f"in {_time(verdict.seconds or 0.0)}"
    return f"ok    {_pair(probe)} {asked}: {probe.expect}, {seen}"


def _total(report: Report) -> str:
    """Say how many of how many probes went as expected, in what time, and whether all pairs were probed."""
    failed = len(report.failures)
    designed = sum(found.verdict.result is Result.BY_DESIGN for found in report.pairs)
    parts = [f"{report.probes:,} probes in {_time(report.seconds)}: {report.probes - failed - designed:,} as expected"]
    parts += [f"{designed:,} cannot by design"] if designed else []
    parts += [f"{failed:,} failed"] if failed else []
    found = (finding.verdict.seconds for finding in (*report.pairs, *report.checks))
    if times := sorted(seconds for seconds in found if seconds is not None):
        parts.append(f"round trip {_time(times[len(times) // 2])} (median), {_time(times[-1])} (longest)")
    parts += [f"sampled {len(report.pairs):,} of {report.total:,} pairs"] if report.sampled else []
    return ", ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


# --- JSON ------------------------------------------------------------------------------------------------------------


def to_json(report: Report) -> dict[str, Any]:
    """Return a report made of what JSON has; times in seconds, rounded to microseconds."""
    return {
        "lab": report.lab,
        "ok": report.ok,
        "seconds": round(report.seconds, 3),
        "probes": report.probes,
        "failed": len(report.failures),
        "sampled": report.sampled,
        "pairsTotal": report.total,
        "pairs": [_finding_json(finding) for finding in report.pairs],
        "checks": [
            _finding_json(finding)
            | {"port": finding.probe.port, "size": finding.probe.size, "expect": finding.probe.expect.value}
            for finding in report.checks
        ],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    probe, verdict = finding.probe, finding.verdict
    return {
        "from": probe.source.name,
        "to": probe.target.name,
        "address": str(probe.address),
        "family": probe.family,
        "protocol": probe.protocol.value,
        "ok": verdict.ok,
        "result": verdict.result.value,
        "seconds": None if verdict.seconds is None else round(verdict.seconds, 6),
        "reason": verdict.reason,
    }
