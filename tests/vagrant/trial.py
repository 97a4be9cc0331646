"""The trial itself: this repository's Vagrantfile, unchanged, on libvirt. Run in a cell with a network of its own.

    python -m tests.vagrant.trial FOLDER BOX [--full]     # the cell's folder; the box's file

Read from the bottom: `_trial` is the list of what is done and looked at.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from netlab.errors import NetlabError, ProgramError
from tests.vagrant import recipe, wire
from tests.vagrant.programs import Ended, call, run
from tests.vagrant.report import Report

ROOT = Path(__file__).parents[2]
NODES = {"netlab1": "192.168.77.11", "netlab2": "192.168.77.12", "netlab3": "192.168.77.13"}
FIRST, SECOND = "netlab1", "netlab2"

# Root without a security driver, cgroups or helper daemons: the cell is all the isolation that is needed.
QEMU_CONF = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""
LIBVIRTD_CONF = 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n'

UP, PROVISION, SUITE, FULL_SUITE, SHORT = 1200.0, 900.0, 900, 5400, 120.0  # limits in seconds
AGAIN = 60.0  # seconds in which a provisioning that finds everything done must be done

# Of the root tests, those that speak most about a kernel: what it offers, its objects, packets.
PART = " ".join(f"tests/root/test_{name}.py" for name in ("features", "contract", "mtu", "packets_*"))

# What a provisioning may change: the packages, what is installed and linked, the environment.
STATE_OF_A_NODE = "{ dpkg -l; find /vagrant /usr/local/bin -printf '%p %T@ %s %l\\n' | sort; } | sha256sum"


class Vagrant:
    """Vagrant with a home of its own in the cell's folder; each command's output goes to a log."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.consoles = folder / "logs/consoles"
        for needed in (self.consoles, folder / "home", folder / "tmp"):
            needed.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in ("NETLAB_SETUP", "NETLAB_BOX")}
        self._environment = kept | {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "LC_ALL": "C.UTF-8",
            "VAGRANT_HOME": str(folder / "home/vagrant"),
            "VAGRANT_DOTFILE_PATH": str(folder / "dot-vagrant"),
            "VAGRANT_CWD": str(ROOT),
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "NETLAB_BOX": recipe.NAME,
            "NETLAB_CONSOLE_LOGS": str(self.consoles),
        }

    def run(self, *arguments: str, limit: float = SHORT, setup: str = "") -> str:
        """Run a vagrant command. `setup` is what the nodes' provisioning installs besides (NETLAB_SETUP)."""
        environment = self._environment | {"NETLAB_SETUP": setup}
        return run(
            ["vagrant", *arguments], self.logs / f"vagrant-{arguments[0].lstrip('-')}.log", limit=limit, env=environment
        )

    def ssh(self, node: str, command: str, *, limit: float = SHORT) -> Ended:
        """Run a shell command in a node, as a person does with `vagrant ssh`."""
        argv = ["vagrant", "ssh", node, "-c", command]
        return call(argv, self.logs / f"{node}.log", limit=limit, env=self._environment)

    def must(self, node: str, command: str, *, limit: float = SHORT) -> str:
        """Run a shell command in a node that must end well. Raises ProgramError."""
        ended = self.ssh(node, command, limit=limit)
        if ended.status:
            raise ProgramError(["vagrant", "ssh", node, "-c", command], ended.status, ended.said)
        return ended.said


@contextmanager
def _libvirtd(folder: Path) -> Iterator[None]:
    """Run the cell's own libvirtd; its folders are mounted where libvirt looks for them."""
    etc = folder / "libvirt/etc"
    (etc / "qemu.conf").write_text(QEMU_CONF)
    (etc / "libvirtd.conf").write_text(LIBVIRTD_CONF)
    (folder / "libvirt/lib/images").mkdir()
    log = folder / "logs/libvirtd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(["libvirtd"], stdout=output, stderr=output)
    deadline = time.monotonic() + 30
    while subprocess.run(["virsh", "-q", "list"], capture_output=True, check=False).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise NetlabError("libvirtd does not answer", f"the end of what it said: {log.read_text()[-600:]}")
        time.sleep(0.1)  # its socket appears before it answers: asking is the only way
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait()


def _virsh(*arguments: str) -> str:
    return subprocess.run(["virsh", "-q", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _bridge() -> str:
    """Return the name of the bridge of the nodes' private network."""
    element = ElementTree.fromstring(_virsh("net-dumpxml", "netlab")).find("bridge")
    assert element is not None
    return element.attrib["name"]


def _versions(vagrant: Vagrant) -> dict[str, str]:
    plugin = vagrant.run("plugin", "list").partition("vagrant-libvirt (")[2].partition(",")[0]
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    driver = ElementTree.fromstring(_virsh("dumpxml", _virsh("list", "--name").split()[0])).attrib["type"]
    return {
        "Vagrant": vagrant.run("--version").split()[-1],
        "vagrant-libvirt": plugin,
        "libvirt": _virsh("--version"),
        "QEMU": qemu.split()[3].partition("(")[0],
        "accelerator": {"qemu": "TCG (no KVM)"}.get(driver, driver.upper()),
        "processors": str(os.cpu_count()),
        "the nodes' Debian": vagrant.must(FIRST, "cat /etc/debian_version").strip(),
        "kernel": vagrant.must(FIRST, "uname -r").strip(),
    }


def _validate(report: Report, folder: Path) -> None:
    """Run the test of the Vagrantfile, which is skipped where Vagrant is not installed: it must run here."""
    junit = folder / "validate.xml"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    argv.append("tests/vm/test_vagrantfile.py")
    ended = call(["env", "NETLAB_VM_TIER=1", *argv], folder / "logs/validate.log", limit=SHORT, cwd=ROOT)
    suite = ElementTree.parse(junit).find("testsuite")
    assert suite is not None
    good = ended.status == 0 and suite.attrib["skipped"] == "0"
    report.check("`vagrant validate` for libvirt and VirtualBox, typos found; no test skipped", good, ended.last_line)


def _doctor(report: Report, vagrant: Vagrant) -> None:
    for node in NODES:
        ended = vagrant.ssh(node, "sudo netlab doctor")
        report.check(f"`sudo netlab doctor` on {node}", ended.status == 0, ended.last_line)


def _provision_again(report: Report, vagrant: Vagrant) -> None:
    """Provision what is provisioned: nothing may change, and it must be quick."""
    before = {node: vagrant.must(node, STATE_OF_A_NODE) for node in NODES}
    start = time.monotonic()
    with report.step("vagrant provision, again"):
        vagrant.run("provision", limit=PROVISION)
    seconds = time.monotonic() - start
    changed = [node for node in NODES if vagrant.must(node, STATE_OF_A_NODE) != before[node]]
    seen = f"changed: {', '.join(changed)}" if changed else f"{seconds:.1f} s for three nodes, nothing changed"
    report.check("a second provisioning changes nothing and is quick", not changed and seconds < AGAIN, seen)


def _suite(report: Report, vagrant: Vagrant, *, full: bool) -> None:
    """Run the root tests in the first node: all of them, or what is done within the limit."""
    with report.step(f"vagrant provision {FIRST}, with what the tests need"):
        vagrant.run("provision", FIRST, limit=PROVISION, setup="test")
    chosen, what, limit = ("tests/root", "all", FULL_SUITE) if full else (PART, "a part", SUITE)
    command = f"cd /vagrant && sudo timeout {limit} scripts/test -q -p no:cacheprovider {chosen}"
    with report.step(f"root tests in {FIRST}, {what}"):
        ended = vagrant.ssh(FIRST, command, limit=limit + SHORT)
    seen = f"not done within {limit} s" if ended.status == 124 else ended.last_line
    report.check(f"root tests pass in {FIRST}: `{chosen}`", ended.status == 0, seen)


def _ping(report: Report, vagrant: Vagrant) -> None:
    for node in (SECOND, "netlab3"):
        ended = vagrant.ssh(FIRST, f"ping -c 3 -i 0.2 -W 5 {NODES[node]}")
        lines = [line for line in ended.said.splitlines() if "packets transmitted" in line]
        report.check(f"{FIRST} pings {node}", ended.status == 0, lines[0] if lines else ended.last_line)


def _vxlan(report: Report, vagrant: Vagrant) -> None:
    """Make a VXLAN between two nodes, ping through it, and look at what crosses the bridge outside of them."""
    tunnel = wire.Tunnel(vni=77, port=4789, outer=(NODES[FIRST], NODES[SECOND]), inner=("10.77.0.1", "10.77.0.2"))
    with report.step(f"a VXLAN between {FIRST} and {SECOND}, seen on the bridge"):
        for node, commands in zip((FIRST, SECOND), wire.commands(tunnel), strict=True):
            vagrant.must(node, commands)
        with wire.capture(_bridge()) as frames:
            ended = vagrant.ssh(FIRST, f"ping -c 3 -i 0.2 -W 5 {tunnel.inner[1]}")
        seen = wire.find_echoes(frames, tunnel)
    report.check("the ping through the VXLAN is answered", ended.status == 0, ended.last_line)
    report.check("the bridge saw it inside VXLAN", seen.both_ways, str(seen))


def _trial(report: Report, folder: Path, box: Path, *, full: bool) -> None:
    vagrant = Vagrant(folder)
    with report.step("vagrant validate, both providers"):
        _validate(report, folder)
    with _libvirtd(folder):
        with report.step("vagrant box add"):
            vagrant.run("box", "add", "--name", recipe.NAME, str(box))
        with report.step("vagrant up --provider=libvirt, three nodes"):
            vagrant.run("up", "--provider=libvirt", limit=UP)
        report.versions = _versions(vagrant)
        with report.step("netlab doctor, three nodes"):
            _doctor(report, vagrant)
        _provision_again(report, vagrant)
        _ping(report, vagrant)
        _vxlan(report, vagrant)
        _suite(report, vagrant, full=full)
        with report.step("vagrant destroy"):
            vagrant.run("destroy", "-f", limit=SHORT)
        left = _virsh("list", "--all", "--name").split()
        report.check("no virtual machine is left", not left, ", ".join(left))


def main() -> None:
    """Run the trial; end with status 1 when a check failed or something could not be done."""
    folder, box, *options = sys.argv[1:]
    report = Report(Path(folder) / "report.json")
    report.load()
    try:
        _trial(report, Path(folder), Path(box), full="--full" in options)
    except NetlabError as exc:
        print(exc, file=sys.stderr)
        report.check("everything could be tried", False, exc.message.partition("\n")[0])
    sys.exit(not report.good)


if __name__ == "__main__":
    main()
