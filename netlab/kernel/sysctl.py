"""Kernel settings of a namespace: /proc/sys as a thread inside it sees it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.plan.objects import Netns, Objects, Sysctl

ROOT = "/proc/sys/"


def write(settings: Iterable[tuple[Netns, Sysctl]]) -> None:
    """Set sysctls in their namespaces. Raises KernelError naming the first that is refused."""
    by_netns: dict[Netns, list[Sysctl]] = defaultdict(list)
    for name, setting in settings:
        by_netns[name].append(setting)

    def write_all(name: Netns) -> None:
        for setting in by_netns[name]:
            try:
                with open(ROOT + setting.path, "w") as file:
                    file.write(setting.value)
            except OSError as exc:
                raise KernelError(exc.errno, f"{name}: set sysctl {setting.path} to {setting.value}") from exc

    netns.call_each(by_netns, write_all)


def read(like: Objects) -> dict[Netns, set[Sysctl]]:
    """Read the settings that `like` names, in each of its namespaces. One that does not exist is left out."""

    def read_all(name: Netns) -> set[Sysctl]:
        found = set()
        for entry in like[name]:
            if isinstance(entry, Sysctl):
                try:
                    value = Path(ROOT + entry.path).read_text().strip()
                except FileNotFoundError:
                    continue
                found.add(Sysctl(entry.path, value, entry.dev))
        return found

    return netns.call_each(like, read_all)
