"""Run a pytest suite inside guests, each its share, and bring back what came out."""

from __future__ import annotations

import json
import re
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

from netlab.errors import NetlabError, VmError
from netlab.vm.client import VmNetwork
from netlab.vm.console import find_oom_victims
from netlab.vm.guest import GuestVm
from netlab.vm.job import Job
from tests.tier.report import junit_key

TEST_LIMIT = "--timeout=900"  # seconds for one test (pytest-timeout); a later one on the command line counts
JUNIT = "/run/junit.xml"
TESTS_FAILED, NO_TESTS = 1, 5  # exit statuses of pytest
PLUGINS = ("-p", "no:cacheprovider", "-p", "tests.tier.shard")
# A node of a cluster has br_netfilter: without it Services do not work between the pods of one node.
PREPARED = ("sh", "-c", 'modprobe br_netfilter && exec "$@"', "sh")
PYTEST = (*PREPARED, "python3", "-m", "pytest", *PLUGINS, TEST_LIMIT, f"--junitxml={JUNIT}")
VOLUME = 1 << 17  # bytes: an eighth of what tests send where nothing is emulated (tests/volume.py)
ENVIRONMENT = {
    "NETLAB_CONSOLE": "/dev/ttyS0",
    "NETLAB_TEST_VOLUME": str(VOLUME),
    "COLUMNS": "100",
}


@dataclass
class Share:
    """One guest's part of the suite, while it runs and afterwards."""

    vm: GuestVm
    job: Job
    why: str = ""  # it has no result of its own
    junit: str = ""
    peak_memory: int = 0  # bytes, of its qemu
    pending: bytearray = field(default_factory=bytearray)

    @property
    def ok(self) -> bool:
        """Say whether all of its tests ran and none failed."""
        return not self.why and self.job.status in (0, NO_TESTS)

    def last_test(self) -> str:
        """Return the test that began last, as the console says; empty when none did."""
        begun = re.findall(r"^test: (.*?)\r?$", self.vm.console, re.MULTILINE)
        return begun[-1] if begun else ""


def run(
    net: VmNetwork,
    arguments: Sequence[str],
    *,
    only: Sequence[str] | None,
    times: Mapping[str, float],
    limit: float,
    show: Callable[[str], None],
) -> list[Share]:
    """Run pytest in every guest at once, for at most `limit` seconds in all; `show` gets lines of output.

    `times` says how long tests took elsewhere, by their `junit_key`; `only` names those to run, None means all.

    The shares that have no result say why, and bring a JUnit text with the test in which they ended.
    """
    deadline = time.monotonic() + limit
    files = {"NETLAB_TIMES": json.dumps(dict(times))}
    if only is not None:
        files["NETLAB_ONLY"] = "\n".join(only)
    shares = [_start(vm, f"{number}/{len(net.vms)}", arguments, files) for number, vm in enumerate(net.vms)]
    running = list(shares)
    while running:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([share.job for share in running], [], [], max(left, 0))
        if not ready:
            for share in running:
                share.why = f"not done after {limit:g} s"
            break
        for share in running:
            if share.job in ready and not _go_on(share, show):
                running.remove(share)
                break
    for share in shares:
        _conclude(share)
    return shares


def _start(vm: GuestVm, shard: str, arguments: Sequence[str], files: Mapping[str, str]) -> Share:
    """Start pytest in a guest; `files` are texts for its plugin, by the variable that names the file."""
    environment = {**ENVIRONMENT, "NETLAB_SHARD": shard}
    for variable, text in files.items():
        environment[variable] = f"/run/{variable.lower()}"
        vm.write(environment[variable], text.encode())
    return Share(vm, vm.start([*PYTEST, *arguments], cwd="/netlab", env=environment))


def _go_on(share: Share, show: Callable[[str], None]) -> bool:
    """Take what a guest has written and show whole lines; say whether it goes on."""
    try:
        for _, content in share.job.take():
            share.pending += content
    except NetlabError as exc:
        share.why = exc.why if isinstance(exc, VmError) else exc.message
        return False
    *whole, rest = share.pending.split(b"\n")
    share.pending = bytearray(rest)
    for line in whole:
        show(f"{share.vm.name} | {line.decode(errors='replace').rstrip()}")
    return share.job.status is None


def _conclude(share: Share) -> None:
    """Bring back a share's JUnit file, or make one that says in which test the guest ended."""
    try:
        if not share.why:
            share.junit = share.vm.read(JUNIT).decode()
            if share.job.status not in (0, TESTS_FAILED, NO_TESTS):
                share.why = f"pytest ended with status {share.job.status}"
        share.peak_memory = share.vm.describe()["peak_memory"]
    except (NetlabError, FileNotFoundError, subprocess.TimeoutExpired) as exc:
        share.why = share.why or f"no result: {exc}"
    if victims := find_oom_victims(share.vm.console):
        share.why += f"{'; ' if share.why else ''}its memory ran out: {', '.join(victims)} killed"
    if not share.junit:
        share.junit = failure(share.last_test(), share.why)


def failure(nodeid: str, why: str) -> str:
    """Return a JUnit text of one failed test."""
    classname, _, name = junit_key(nodeid or "tests/root::before the first test").partition("::")
    return (
        f"<testsuites><testsuite><testcase classname={quoteattr(classname)} name={quoteattr(name)}>"
        f"<failure message={quoteattr(why)}/></testcase></testsuite></testsuites>"
    )
