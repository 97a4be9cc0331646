"""What `netlab doctor` finds and how it judges it: can labs run here, as whom, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netlab.errors import NotSupported
from netlab.kernel import features, userns
from netlab.kernel.features import Feature, Kind

BASIC = frozenset({"network namespaces", "veth", "bridge"})  # what the smallest lab is made of
OUTSIDE = (Kind.PROGRAM, Kind.LIMIT)  # the same for every namespace, or not to be seen from inside one
NOT_THE_KERNELS = (Kind.PRIVILEGE, *OUTSIDE)  # a guest's kernel has no part in them

WITHOUT_ROOT = (
    "this machine's own interfaces, routes and rules: a lab cannot be joined to them",
    "loading kernel modules by hand (those that load on first use still do)",
    "eBPF and tracefs: traces come without drop reasons",
    "global limits: neighbour tables, nf_conntrack_max",
    "/dev/net/tun where only root may open it: backend udp",
    "running a container's process as another user: only your own exists inside",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `untried` says why links and packet filters could not be tried; empty when they were."""

    ready: bool
    rootless: bool
    untried: str
    features: tuple[Feature, ...]
    without_root: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One feature of this kernel and of a guest's."""

    name: str
    kind: Kind
    here: Feature
    guest: Feature


@dataclass(frozen=True, slots=True)
class Command:
    """A program `netlab` on $PATH: this project's, or another's of the same name."""

    path: str
    is_ours: bool


def examine() -> Report:
    """Find out what this machine can run. Without root this process moves, for good, into namespaces of its own."""
    rootless = not userns.is_privileged()
    found = [*features.probe(OUTSIDE), judge_commands(find_commands(os.environ.get("PATH", "")))]
    untried = ""
    if rootless:
        try:
            userns.isolate()
        except NotSupported as exc:
            untried = exc.hint
    kinds = set(Kind).difference(OUTSIDE)
    found += features.probe(kinds - features.TRIED_IN_NAMESPACE if untried else kinds)
    return judge(found, rootless=rootless, untried=untried)


def judge(found: Sequence[Feature], *, rootless: bool, untried: str) -> Report:
    """Say whether labs can run, given what was found."""
    ready = {feature.name for feature in found if feature.available} >= BASIC
    order = list(Kind)
    in_order = tuple(sorted(found, key=lambda feature: order.index(feature.kind)))
    return Report(ready, rootless, untried, in_order, WITHOUT_ROOT if rootless else ())


def compare(here: Report, guest: Report) -> tuple[Row, ...]:
    """Put what two kernels offer side by side, in the order in which `here` shows it."""
    others = {feature.name: feature for feature in guest.features}
    return tuple(
        Row(feature.name, feature.kind, feature, others[feature.name])
        for feature in here.features
        if feature.kind not in NOT_THE_KERNELS and feature.name in others
    )


def find_commands(search_path: str) -> list[Command]:
    """Return every `netlab` on a search path, in the order in which a shell finds them."""
    found: dict[Path, Command] = {}
    for folder in search_path.split(os.pathsep):
        file = Path(folder or ".") / "netlab"
        if file.is_file() and os.access(file, os.X_OK):
            found.setdefault(file.resolve(), Command(str(file), _is_ours(file)))
    return list(found.values())


def _is_ours(file: Path) -> bool:
    """Say whether a program starts this project: installers write the entry point's module into it."""
    try:
        with file.open("rb") as stream:
            return b"netlab.cli.main" in stream.read(4096)
    except OSError:
        return False


def judge_commands(commands: Sequence[Command]) -> Feature:
    """Say whether typing `netlab` starts this project: PyPI's networklab installs a command of the same name."""
    available, detail, how_to_get = _judge_first(commands)
    return Feature("program netlab", Kind.PROGRAM, available, detail, "the command `netlab`", how_to_get)


def _judge_first(commands: Sequence[Command]) -> tuple[bool, str, str]:
    if not commands:
        return False, "not on PATH", "activate the virtual environment that netlab is in"
    first, *others = commands
    also = "".join(f"; also {other.path}{'' if other.is_ours else ' (another project)'}" for other in others)
    if not first.is_ours:
        advice = "put this netlab's folder first on PATH; or pip uninstall networklab"
        return False, f"{first.path} is another project{also}", advice
    return True, f"{first.path}{also}", ""
