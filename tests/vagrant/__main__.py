"""The command line of `scripts/test-vagrant`, which has installed what this needs."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from netlab import paths
from netlab.errors import NetlabError
from tests.vagrant import recipe
from tests.vagrant.box import python_requirements
from tests.vagrant.cell import PLACES, Cell, Network
from tests.vagrant.report import Report, differences, replace_section, section, summary

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/vagrant.md"
SPACE, MEMORY = 4 << 30, 2 << 30  # bytes that must be free
INTERRUPTED = 130  # exit status
CONSOLE = 8  # lines of each node's console that are shown when something failed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/test-vagrant", description="Try the Vagrantfile on libvirt.")
    parser.add_argument("--full", action="store_true", help="run all root tests in a node, the slow ones too")
    parser.add_argument("--record", action="store_true", help=f"write the result into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--rebuild", action="store_true", help="build the box anew, with today's packages")
    return parser.parse_args()


def main() -> None:
    """Run the trial; end with status 1 when something failed."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        report = _run(paths.cache_dir() / "vagrant", rebuild=options.rebuild, full=options.full)
    except NetlabError as exc:
        sys.exit(f"scripts/test-vagrant: {exc}")
    except KeyboardInterrupt:
        print("scripts/test-vagrant: interrupted; what the programs said is in the cache, in failed/", file=sys.stderr)
        sys.exit(INTERRUPTED)
    print(f"\n{summary(report)}")
    if options.record:
        PAGE.write_text(replace_section(PAGE.read_text(), section(report, date.today().isoformat())))
        print(f"written to {PAGE.relative_to(ROOT)}")
    sys.exit(not report.good)


def _interrupt(number: int, _frame: object) -> None:
    """End the run, once: a second signal must not disturb the clearing away."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _run(cache: Path, *, rebuild: bool, full: bool) -> Report:
    """Build the box if it is missing, do the trial, clear away, and see that nothing is left."""
    box = cache / f"{recipe.key(python_requirements())}.box"
    folder = cache / "run"
    report = Report(folder / "report.json")
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / "lock"):
        cell = Cell(folder, kept_logs=cache / "failed")
        cell.clear()  # after a run that was killed
        _require_room(cache)
        before = _outside()
        try:
            with cell:
                if rebuild or not box.exists():
                    _build(report, cell, box)
                options = ["--full"] if full else []
                status = cell.python("tests.vagrant.trial", str(folder), str(box), *options, network=Network.OWN)
                report.load()
                if status and report.good:
                    report.note("everything could be tried", [f"the trial itself ended with status {status}"])
        finally:
            left = [*cell.remains(), *differences(before, _outside()), *map(str, cache.glob(folder.name))]
            report.note("nothing is left: processes, namespaces, files; the host's network as it was", left)
    if report.good:
        shutil.rmtree(cell.kept_logs)
    else:
        _show_consoles(cell.kept_logs)
    return report


def _build(report: Report, cell: Cell, box: Path) -> None:
    """Build the box, and forget those of older recipes. Raises NetlabError: the box's own process has said why."""
    with report.step("building the box"):
        status = cell.python("tests.vagrant.box", str(box), str(cell.folder), network=Network.HOST)
    if status:
        raise NetlabError("the box could not be built", f"all that the tools said is in {cell.kept_logs}")
    for old in set(box.parent.glob("*.box")) - {box}:
        old.unlink()


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise NetlabError("another scripts/test-vagrant is at work", "wait for it, or set NETLAB_CACHE") from exc
        yield


def _require_room(cache: Path) -> None:
    """Raise NetlabError when the disk or the memory is too full to begin."""
    if (free := shutil.disk_usage(cache).free) < SPACE:
        hint = "make space, or set NETLAB_CACHE to a folder elsewhere"
        raise NetlabError(f"{cache} has {free >> 20} MiB free, and {SPACE >> 20} MiB are needed", hint)
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(words[1]) << 10 for words in lines if words[0] == "MemAvailable:")
    if available < MEMORY:
        hint = "end other programs, or set NETLAB_MEMORY to fewer MiB for each node"
        raise NetlabError(f"{available >> 20} MiB of memory are free, and the nodes need {MEMORY >> 20} MiB", hint)


def _outside() -> dict[str, str]:
    """Describe what a run must not change: the host's own network, and where vagrant and libvirt keep files."""
    commands = ("ip -br link", "ip -br address", "ip route show table all", "ip rule", "nft -s list ruleset")
    found = {}
    for command in commands:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        found[f"the host's `{command}`"] = done.stdout
    home = Path.home()
    for place in (*PLACES, home / ".vagrant.d", home / ".config/libvirt", home / ".cache/libvirt", ROOT / ".vagrant"):
        found[f"files in {place}"] = "\n".join(map(str, sorted(place.rglob("*")))) if place.exists() else "none"
    return found


def _show_consoles(logs: Path) -> None:
    for console in sorted((logs / "consoles").glob("*.log")):
        lines = console.read_text(errors="replace").splitlines()[-CONSOLE:]
        print("\n".join([f"--- the end of {console}", *lines]))
    print(f"--- the nodes' consoles and all that the programs said: {logs}")


if __name__ == "__main__":
    main()
