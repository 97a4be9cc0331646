"""The drop table of tracing.md A3 and more: a fault is put into a lab, and `trace` says where, why and what to look at.

One lab for all; after each fault it is mended, and a packet gets through again.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from string import Template

import pytest

from netlab import names
from netlab.bpf import btf
from netlab.cli.trace import make_question
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.lab import Lab
from netlab.topology.service import Port, Service
from netlab.trace.correlate import Role
from netlab.trace.layout import DROP_REASONS, MEMBERS
from netlab.trace.model import Trace, Verdict, Way
from netlab.trace.question import Options
from netlab.trace.render.tree import tree
from netlab.trace.run import trace
from tests.root.service_lab import TCP, ServiceLab
from tests.root.trace_faults import FRAMES, TOPOLOGY, UNDERLAY, Commands, Fault
from tests.root.trace_faults_ends import ENDS, IPV6, ROUTES

pytestmark = pytest.mark.root

NOBODY = Service("nobody", selector=(("app", "nobody"),), ports=(Port(80, "http", TCP),))
WIDTH = 80
UNLIMITED = "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0"  # else some errors are not told
SAW = re.compile(r"(?P<verdict>answered|refused|delivered|dropped|not sent)(?: (?P<at>\S+)(?: (?P<drop>.*))?)?")
DROP = re.compile(r"(?P<reason>\S+) @ (?P<place>\S*)(?: answer (?P<at>\S+))?")
PATIENT = Options(wait=2.0)
FAULTS = [
    pytest.param(fault, id=fault.name, marks=pytest.mark.slow if fault.slow else ())
    for fault in (*FRAMES, *ENDS, *ROUTES, *IPV6)
]


@dataclass
class Broken:
    """A lab to break, and the words that stand for its names and addresses."""

    lab: Lab
    words: dict[str, str]

    def run(self, commands: Commands) -> None:
        for member, command in commands:
            filled = self.fill(command)
            done = netns.call(self._netns(member), _shell, filled)
            assert done.returncode == 0, f"{member}: {filled}: {done.stderr}"

    def fill(self, text: str) -> str:
        return Template(text).substitute(self.words)

    def trace(self, words: tuple[str, str], fault: Fault | None = None) -> Trace:
        protocol = str(fault.protocol) if fault and fault.protocol else None
        options = fault.options if fault else PATIENT
        question = make_question(self.lab, words, protocol, fault.version if fault else 4, options)
        return trace(self.lab, question)

    def _netns(self, member: str) -> str:
        return names.fabric(self.lab.name) if member == UNDERLAY else self.lab.netns(member)


def _shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def broken() -> Iterator[Broken]:
    with Lab.loads(TOPOLOGY, name="drops") as lab:
        services = ServiceLab(lab)
        services.apply(NOBODY)
        services.wait_for_endpoints("own", 1)
        services.wait_for_endpoints("local", 1)
        found = Broken(services.lab, _names(services.lab))
        found.run(tuple((member, UNLIMITED) for member in ("n1", "n2", "n3", "b")))
        yield found


def _names(lab: Lab) -> dict[str, str]:
    snapshot = lab.snapshot
    found = {"fabric": names.fabric(lab.name)}
    for pod in ("a", "b", "c", "d"):
        node = next(one.node for one in lab.topology.pods if one.name == pod)
        ips, cidrs = lab.addresses(pod), snapshot.leases[node].pod_cidrs
        found |= {pod: str(ips[0]), f"{pod}6": str(ips[1]), f"ns_{pod}": lab.netns(pod)}
        found |= {f"net_{pod}": str(cidrs[0]), f"net_{pod}6": str(cidrs[1]), f"gateway_{pod}": str(cidrs[0][1])}
        found |= {f"port_{pod}": names.pod_port(pod, node), f"mac_{pod}": names.mac_of_ipv4(ips[0].packed)}
    for node in ("n1", "n2", "n3"):
        lease = snapshot.leases[node]
        found |= {f"node_{node}": str(lease.public_ips[0]), f"tunnel_{node}": str(lease.pod_cidrs[0][0])}
        found |= {f"ns_{node}": lab.netns(node)}
        for vtep, device in (("vtep", "flannel.1"), ("vtep6", "flannel-v6.1")):
            link = netns.call(lab.netns(node), _shell, f"ip -o link show {device}").stdout
            found[f"{vtep}_{node}"] = link.partition("link/ether ")[2].split()[0]
    return found


@pytest.fixture(scope="module")
def reasons() -> set[str]:
    """Return the reasons that this kernel can name; it says NOT_SPECIFIED for the others."""
    known = btf.find(MEMBERS, (DROP_REASONS,), needed_by="this test").enums[DROP_REASONS]
    return {name.removeprefix("SKB_DROP_REASON_") for name in known.values()}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault: Fault, broken: Broken, reasons: set[str]) -> None:
    """Member, device, reason and place are the kernel's; the sentence says what it means, the hint where to look."""
    try:
        broken.run(fault.put_in)
        result = broken.trace(fault.words, fault)
        lines = list(tree(result, width=WIDTH, both_ways=True))
        _compare(fault, result, broken, reasons)
        assert max(map(len, lines)) <= WIDTH
    finally:
        broken.run(fault.taken_out)
        broken.lab.up()
    assert broken.trace(("a", "b")).verdict is Verdict.ANSWERED


def _compare(fault: Fault, result: Trace, broken: Broken, reasons: set[str]) -> None:
    saw = SAW.fullmatch(broken.fill(fault.saw))
    assert saw
    assert (str(result.verdict), result.summary) == (saw["verdict"], result.summary)
    assert re.search(_pattern(broken, fault.says), result.summary), result.summary
    probe = next((way for way in result.ways if way.role is Role.PROBE), None)
    if saw["at"] is None:
        assert probe is None
        return
    assert probe
    assert re.fullmatch(saw["at"], _end(probe))
    drop = DROP.fullmatch(saw["drop"] or "")
    if drop is None:
        assert probe.drop is None
        return
    ended = probe
    if drop["at"]:
        ended = next(way for way in result.ways if way.role is Role.ANSWER)
        assert re.fullmatch(drop["at"], _end(ended))
    assert ended.drop
    known = [reason if reason in reasons else "NOT_SPECIFIED" for reason in drop["reason"].split("|")]
    assert ended.drop.reason in known
    assert ended.drop.place.startswith(tuple(drop["place"].split("|")))
    assert re.search(_pattern(broken, fault.look), ended.drop.hint), ended.drop.hint
    for command in ended.drop.hint.split("; "):
        _look(command)


def _pattern(broken: Broken, text: str) -> str:
    return broken.fill(text.replace("$", "$$") if text.endswith("$$") else text)


def _end(way: Way) -> str:
    return f"{way.hops[-1].member}/{way.hops[-1].device}"


def _look(command: str) -> None:
    """Run a hint's command: it says something, an error being one answer."""
    assert command.startswith("ip netns exec nl-")
    _, _, _, namespace, *argv = shlex.split(command)
    done = netns.call(namespace, _shell, shlex.join(argv))
    assert done.stdout or done.stderr or done.returncode == 0, command
    assert done.returncode in (0, 2), f"{command}: {done.stderr}"  # 2: ip-route(8) has no route


# --- other labs, and labs that are none ------------------------------------------------------------------------------

RACKS = """
underlay:
  segments: {rack1: 172.18.1.0/24, rack2: 172.18.2.0/24}
  routers: {r1: [rack1, rack2]}
nodes: [{name: n1, segment: rack1}, {name: n2, segment: rack2}]
backend: host-gw
proxy: none
pods: [{name: a, node: n1}, {name: b, node: n2}]
"""


def test_host_gw_does_not_cross_a_router() -> None:
    with Lab.loads(RACKS, name="racks") as lab:
        result = trace(lab, make_question(lab, ("a", "b"), None, None, Options(wait=0.05)))
        (probe,) = (way for way in result.ways if way.role is Role.PROBE)
        assert result.verdict is Verdict.DROPPED
        assert probe.drop
        assert result.summary == "dropped on r1, eth0: r1 has no route to 10.244.2.2: Network is unreachable"
        assert (probe.drop.reason, probe.drop.place) == ("IP_INNOROUTES", "ip_error")
        _look(probe.drop.hint)


def test_a_lab_that_is_down_and_a_pod_whose_namespace_is_gone() -> None:
    with Lab.loads(RACKS, name="gone") as lab:
        question = make_question(lab, ("a", "b"), None, None, Options(wait=0.05))
        back = make_question(lab, ("b", "a"), None, None, Options(wait=0.05))
        assert subprocess.run(["ip", "netns", "del", lab.netns("b")], check=False).returncode == 0
        assert trace(lab, question).verdict is Verdict.DROPPED
        with pytest.raises(NetlabError, match=r"nl-gone\.b"):
            trace(lab, back)
    with pytest.raises(NetlabError, match=r"not up|nl-gone"):
        trace(lab, question)
