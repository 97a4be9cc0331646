"""What every test on the real kernel is held to: it leaves nothing, and the host's own network is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from netlab.errors import NotSupported
from netlab.kernel import features, netns
from netlab.names import NETNS_DIR
from netlab.topology.model import ForwarderKind
from tests.root.forwarders import KINDS
from tests.root.modules import modprobe

VOLATILE = {"IFLA_STATS", "IFLA_STATS64", "RTA_CACHEINFO", "IFA_CACHEINFO", "RTA_EXPIRES", "IFLA_AF_SPEC"}


def pytest_configure() -> None:
    """Give this run a /run/netns of its own, so that several can go on at once without seeing each other's names."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: what we start would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup(1), likewise
    if os.geteuid() == 0:
        netns.unshare(netns.CLONE_NEWNS)
        netns.mount("none", "/", None, netns.MS_REC | netns.MS_SLAVE)
        os.makedirs(NETNS_DIR, exist_ok=True)
        netns.mount("tmpfs", NETNS_DIR, "tmpfs", 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip without the rights; `scripts/test` always has them."""
    if os.geteuid() != 0:
        for item in items:
            if "tests/root" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="needs root or a user namespace: run scripts/test"))


def host_network() -> dict[str, object]:
    """Return everything about the host's own network that a lab could disturb, by pyroute2 and the tools' listings."""
    with IPRoute() as ipr:
        found: dict[str, object] = {
            "links": sorted(_stable(message) for message in ipr.get_links()),
            "addresses": sorted(_stable(message) for message in ipr.get_addr()),
            "routes": sorted(_stable(message) for message in ipr.get_routes()),
            "rules": sorted(_stable(message) for message in ipr.get_rules()),
        }
    for argv in (("nft", "-s", "list", "ruleset"), ("iptables-save",), ("ip6tables-save",)):
        output = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        found[argv[0]] = [line for line in output.splitlines() if not line.startswith(("#", ":"))]
    found["sysctls"] = {
        str(path): path.read_text() for path in sorted(Path("/proc/sys/net/ipv4").glob("*forward*")) if path.is_file()
    }
    return found


def _stable(message: object) -> str:
    attributes = sorted(str(entry) for entry in message["attrs"] if entry[0] not in VOLATILE)  # type: ignore[index]
    return str(attributes)


def processes_of(state: Path) -> set[str]:
    """Return the processes that know a state folder, by argument or environment; not this one."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            known = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if str(state).encode() in known and path.name != str(os.getpid()):
                found.add(f"{path.name} {(path / 'comm').read_text().strip()}")
        except OSError:
            continue
    return found


@pytest.fixture(scope="session")
def ipip() -> None:
    """Skip where the kernel has no ipip; else load it before anything is compared: that adds tunl0 to the host."""
    _skip_without("ipip")

    def load() -> None:
        with IPRoute() as ipr:
            ipr.link("add", ifname="probe0", kind="ipip", ipip_local="10.0.0.1")

    netns.call_anonymous(load)


@pytest.fixture(scope="session")
def sctp() -> None:
    """Skip where the kernel has no SCTP; elsewhere the first socket loads it."""
    _skip_without("sctp")


def _skip_without(feature: str) -> None:
    try:
        features.require(feature, "this test")
    except NotSupported:
        pytest.skip(f"this kernel has no {feature}; the VM tier runs it")


@pytest.fixture(scope="session")
def ipvs() -> None:
    """Skip where the kernel has no IPVS; else load it, and dummy without the dummy0 that it makes on the host."""
    loads = (("-a", "ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_sh", "ip_vs_mh", "xt_ipvs"), ("dummy", "numdummies=0"))
    if not all(modprobe(*names) for names in loads):
        pytest.skip("this kernel has no ipvs; the VM tier runs it")


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a state folder of its own, and fail it when it leaves something behind."""
    monkeypatch.setenv("NETLAB_STATE", str(tmp_path / "state"))
    before = host_network()
    namespaces = set(netns.names(""))
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    assert set(netns.names("")) <= namespaces, "namespaces were left"
    assert processes_of(tmp_path) == set(), "processes were left"
    after = host_network()
    for what, value in before.items():
        assert after[what] == value, f"the host's {what} changed"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 8, "file descriptors were left"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> ForwarderKind:
    """Give a test each of the udp backend's forwarders."""
    found: ForwarderKind = request.param
    return found
