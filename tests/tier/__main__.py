"""`scripts/test-vm`: the root tests inside VMs, each its share, then the tests that drive VMs from here; one total."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from netlab.errors import NetlabError
from netlab.vm import qemu
from netlab.vm.boot import Boot
from netlab.vm.client import VmNetwork
from tests.tier import guests, report
from tests.tier.report import Outcomes

HERE = "tests/vm"  # tests that run on this machine and drive VMs
INSIDE = "tests/root"  # tests that run inside
INTERRUPTED = 130
AGAIN_MAX = 10  # tests: where more of them fail it is not the machine's noise
LAST_FAILED = ("--last-failed", "--last-failed-no-failures", "none")


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return this command's own options, and what goes to pytest."""
    parser = argparse.ArgumentParser(
        prog="scripts/test-vm",
        description=__doc__,
        epilog=f"Everything else goes to pytest. Paths choose: those in {HERE} run here, others inside the VMs.",
    )
    parser.add_argument("-n", "--vms", type=int, default=2, help="how many VMs share the tests (default: 2)")
    parser.add_argument("--memory", type=int, default=qemu.MEMORY, help="MiB each may use (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=5400, help="seconds for the tests inside (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=Path("vm-results"), help="folder for results (default: vm-results)"
    )
    parser.add_argument(
        "--native",
        type=Path,
        action="append",
        default=[],
        metavar="JUNIT",
        help="scripts/test's result: compare, and demand that every test ran somewhere; of several the last counts",
    )
    parser.add_argument("--skipped", action="store_true", help="run inside only what was skipped there")
    parser.add_argument(
        "--again", action="store_true", help="run what failed once more, alone: it fails if it does so twice"
    )
    options, others = parser.parse_known_args()
    if options.skipped and not options.native:
        parser.error("--skipped needs --native")
    return options, others


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return pytest's arguments for inside and for here; empty where no path is meant."""
    paths = [os.path.relpath(word) for word in arguments if Path(word.partition("::")[0]).exists()]
    others = [word for word in arguments if not Path(word.partition("::")[0]).exists()]
    here = [path for path in paths if path.startswith(HERE)]
    inside = [path for path in paths if path not in here]
    if not paths:
        here, inside = [HERE], [INSIDE]
    return inside and [*others, *inside], here and [*others, *here]


def run_inside(
    options: argparse.Namespace, arguments: list[str], native: Outcomes, times: Mapping[str, float]
) -> Outcomes:
    """Run the tests inside VMs, keep what they brought back, and print what it took."""
    only = report.skipped(native) if options.skipped else None
    times = {} if options.skipped else times
    started = time.monotonic()
    boot = Boot.prepare(print)
    print(f"accelerator: {boot.accelerator}; image {boot.image.folder.name}, {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    with VmNetwork.start(f"test-{os.getpid()}", count=options.vms, memory=options.memory, boot=boot) as net:
        release = net.describe()[0]["release"]
        print(f"{options.vms} VMs ready after {time.monotonic() - started:.1f} s: Linux {release}", flush=True)
        shares = guests.run(net, arguments, only=only, times=times, limit=options.limit, show=show)
        keep(options.results, shares)
        took = time.monotonic() - started
        peak = max(share.peak_memory for share in shares) >> 20
        print(f"inside: {took:.0f} s in {options.vms} VMs, boot included; {peak} MB at most in one VM")
        found = report.merge(report.read(share.junit) for share in shares)
        if times and all(share.ok for share in shares):
            alone = sum(times.get(key, 0.0) for key in found)
            print(
                f"the same tests took {alone:.0f} s on this machine's kernel: {took / alone:.1f} times as long inside"
            )
        if wanted := again(options, found, whole=not any(share.why for share in shares)):
            shares = guests.run(net, arguments, only=wanted, times={}, limit=options.limit, show=show)
            keep(options.results, shares, "-again")
            return conclude_again(found, report.merge(report.read(share.junit) for share in shares))
    return found


def show(line: str) -> None:
    """Print a line of a guest's output at once."""
    print(line, flush=True)


def again(options: argparse.Namespace, found: Outcomes, *, whole: bool) -> list[str]:
    """Return the tests to run once more; none where that was not asked for or a run was not `whole`."""
    failed = report.failed(found)
    return failed if options.again and whole and len(failed) <= AGAIN_MAX else []


def conclude_again(first: Outcomes, second: Outcomes) -> Outcomes:
    """Say which tests passed only at the second try; return what counts: the first where too many had failed."""
    if len(report.failed(first)) > AGAIN_MAX:
        return report.merge([first, second])
    for key in report.recovered(first, second):
        print(f"failed, and passed alone: {key}", flush=True)
    return {**first, **second}


def keep(results: Path, shares: Iterable[guests.Share], suffix: str = "") -> None:
    """Write each share's JUnit file; on a failure also its output and console, and say so."""
    for share in shares:
        _keep(results, share, share.vm.name + suffix)


def _keep(results: Path, share: guests.Share, name: str) -> None:
    (results / f"{name}.xml").write_text(share.junit)
    if share.ok:
        return
    (results / f"{name}.out").write_text(share.job.output + share.job.errors)
    (results / f"{name}.console").write_text(share.vm.console)
    why = f"{share.why}, in {share.last_test() or 'no test yet'}" if share.why else "tests failed"
    print(f"{name}: {why}; see {results}/{name}.out and {results}/{name}.console", flush=True)


def run_here(options: argparse.Namespace, arguments: list[str]) -> tuple[int, Outcomes]:
    """Run the tests that drive VMs; return pytest's status and what became of them."""
    status, found = _run_pytest(options.results / "here.xml", arguments)
    if again(options, found, whole=status == guests.TESTS_FAILED):
        status, second = _run_pytest(options.results / "here-again.xml", [*arguments, *LAST_FAILED])
        return status, conclude_again(found, second)
    return status, found


def _run_pytest(junit: Path, arguments: list[str]) -> tuple[int, Outcomes]:
    junit.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", guests.TEST_LIMIT, f"--junitxml={junit}", *arguments]
    status = subprocess.run(argv, env={**os.environ, "NETLAB_VM_TIER": "1"}, check=False).returncode
    return status, report.read(junit.read_text()) if junit.exists() else {}


def read_native(files: Iterable[Path]) -> tuple[Outcomes, Mapping[str, float]]:
    """Return what became of the tests on this machine's kernel, and how long the first run of each took, in seconds."""
    found: Outcomes = {}
    times: dict[str, float] = {}
    for text in (file.read_text() for file in files):
        outcomes = report.read(text)
        found = conclude_again(found, outcomes)
        times = {**report.durations(text), **times}
    return found, times


def conclude(tiers: list[Outcomes], native: Outcomes) -> int:
    """Print the total; return the exit status."""
    merged = report.merge([*tiers, native])
    nowhere = report.skipped(merged) if native else []
    for key in nowhere:
        print(f"ran nowhere: {key}")
    for key in (failed := report.failed(merged)):
        print(f"failed: {key}")
    print("both tiers:" if native else "VM tier:")
    print(report.total(merged))
    return 1 if failed or nowhere or not merged else 0


def main() -> int:
    """Run what was asked for."""
    options, arguments = read_arguments()
    native, times = read_native(options.native)
    options.results.mkdir(parents=True, exist_ok=True)
    for old in options.results.glob("vm*.*"):
        old.unlink()
    inside, here = split(arguments)
    tiers: list[Outcomes] = []
    status = 0
    if inside:
        tiers.append(run_inside(options, inside, native, times))
    if here:
        status, found = run_here(options, here)
        tiers.append(found)
    return conclude(tiers, native) or (status if status != guests.NO_TESTS else 0)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background job would ignore the second
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except NetlabError as exc:
        print(f"scripts/test-vm: {exc}", file=sys.stderr)
        sys.exit(exc.exit_status)
