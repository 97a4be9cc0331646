"""The main flow on one page: load, allocate, build, observe, diff, apply.

This is also the Python API:

    from netlab import Lab

    with Lab.load("topologies/vxlan-3.yaml") as lab:          # up, and down at the end
        print(lab.exec("web-1", ["ping", "-c1", lab.address("web-2")]).stdout)
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from netlab.check.matrix import LIMIT
from netlab.check.model import Report
from netlab.dns import zone_file
from netlab.errors import KernelError, NetlabError
from netlab.folder import LabFolder, Record, known_labs
from netlab.found import FoundLab, labs_in_kernel
from netlab.kernel import sysctl, tool, tun
from netlab.kernel.linux import LinuxKernel, no_progress
from netlab.plan.build import build
from netlab.plan.diff import Op, diff
from netlab.plan.drift import differences
from netlab.plan.etc import pod_files
from netlab.plan.objects import Forwarder, Objects, Plan, Process, Ruleset, State
from netlab.plan.rules import tools
from netlab.store.store import Snapshot
from netlab.supervisor.client import ProcessState, Supervisor, write_etc
from netlab.topology.model import IpipBackend, Netfilter, Proxy, Topology, UdpBackend
from netlab.topology.system import keep_owned_pods

LOCK_WAIT = 30.0  # seconds for another netlab to finish with the lab
RETRY = 0.1  # seconds between two tries of a check
ROUNDS = 3  # a change can have side effects in the kernel, which the next round mends


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `up` did or would do: operations in order (none when nothing differed), the plan, seconds in the kernel."""

    ops: tuple[Op, ...]
    plan: Plan
    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """A lab as it is: what should be, what is, and the operations that lie between them (drift)."""

    plan: Plan
    state: State
    drift: tuple[Op, ...]


class Lab(FoundLab):
    """One lab: a topology, its folder, and the kernel that it lives in."""

    def __init__(self, topology: Topology, source: str = "") -> None:
        super().__init__(topology, source)
        self.keeper = Supervisor(topology.name, self.folder.runtime)

    @classmethod
    def load(
        cls,
        file: str | Path,
        *,
        backend: str | None = None,
        forwarder: str | None = None,
        name: str | None = None,
        proxy: str | None = None,
    ) -> Lab:
        """Make a lab of a topology file. Raises TopologyError with every mistake in it."""
        from netlab.topology.load import load

        topology = load(file, backend=backend, forwarder=forwarder, name=name, proxy=proxy)
        return cls(topology, str(Path(file).absolute()))

    @classmethod
    def loads(cls, text: str, *, name: str | None = None) -> Lab:
        """Make a lab of a topology in a string."""
        from netlab.topology.load import load_text

        return cls(load_text(text, name=name))

    # --- the flow ---

    def up(
        self,
        *,
        dry_run: bool = False,
        wait: float = LOCK_WAIT,
        begin: Callable[[int], None] = no_progress,
        progress: Callable[[int], None] = no_progress,
    ) -> Outcome:
        """Make the lab what its topology says; nothing that is right already is touched.

        `begin` is told how many operations there are, `progress` how many more are done.
        """
        started = time.monotonic()
        self.topology = self._with_owned_pods()
        if dry_run:
            from netlab.store.allocate import allocate

            found = self._compare(allocate(self.topology, self.folder.store.read()))
            return Outcome(found.drift, found.plan, time.monotonic() - started)
        self._require()
        with self.folder.lock(wait), LinuxKernel(self.keeper) as kernel:
            self.topology = self._with_owned_pods()
            ops, plan = self.realize(kernel, begin, progress)
            return Outcome(tuple(ops), plan, time.monotonic() - started)

    def realize(
        self,
        kernel: LinuxKernel,
        begin: Callable[[int], None] = no_progress,
        progress: Callable[[int], None] = no_progress,
    ) -> tuple[list[Op], Plan]:
        """Make the kernel what the topology says, and return the operations that this took first. Hold the lock."""
        old_rules = self._old_rules()
        plan = build(self.topology, self.acquire())
        like = {netns: entries | old_rules.get(netns, frozenset()) for netns, entries in plan.objects.items()}

        def observe() -> Objects:
            return kernel.observe(self.name, like).objects

        return self.converge(kernel, observe, plan.objects, begin, progress), plan

    def converge(
        self,
        kernel: LinuxKernel,
        observe: Callable[[], Objects],
        wanted: Objects,
        begin: Callable[[int], None] = no_progress,
        progress: Callable[[int], None] = no_progress,
    ) -> list[Op]:
        """Make what is observed what is wanted, and return the operations that this took first."""
        before = observe()
        ops = first = diff(before, wanted)
        begin(len(ops))
        for _ in range(ROUNDS):
            kernel.apply(ops, progress)
            if not before or not ops:
                break
            ops = diff(observe(), wanted)
        else:
            if ops:
                raise _restless(self.name, ops)
        return first

    def _with_owned_pods(self) -> Topology:
        """Return the topology with the pods that the control plane has made in the lab that is up."""
        record = self.folder.find_record()
        return keep_owned_pods(self.topology, record.topology) if record else self.topology

    def _old_rules(self) -> Objects:
        """Return the rulesets that the last `up` made, if the topology now wants others: nothing else names them."""
        record = self.folder.find_record()
        if record is None or _rule_choices(record.topology) == _rule_choices(self.topology):
            return {}
        snapshot = self.folder.store.read()
        if not snapshot.covers(record.topology):
            return {}
        objects = build(record.topology, snapshot).objects
        return {
            netns: frozenset(entry for entry in entries if isinstance(entry, Ruleset))
            for netns, entries in objects.items()
        }

    def _require(self) -> None:
        """Raise NotSupported before anything is changed where this machine lacks what some do."""
        tool.require(tools(self.topology.netfilter, self.topology.families))
        self._require_proxies({node.proxy or self.topology.proxy for node in self.topology.cluster_nodes})
        if 6 in self.topology.families:
            sysctl.require_ipv6("a dual-stack lab")
        if isinstance(self.topology.backend, IpipBackend):
            from netlab.kernel import features  # loads pyroute2

            features.require("ipip", "backend ipip")
        if isinstance(self.topology.backend, UdpBackend):
            tun.require()

    def _require_proxies(self, modes: Collection[Proxy]) -> None:
        """Raise NotSupported where nodes could not carry out Services in one of these modes."""
        families = self.topology.families
        if Proxy.NFTABLES in modes:
            tool.require(tools(Netfilter.NFTABLES, families))
        if Proxy.IPTABLES in modes or Proxy.IPVS in modes:
            tool.require(tools(Netfilter.IPTABLES, families))
        if Proxy.IPVS in modes:
            from netlab.kernel import features

            features.require("ipvs", "proxy: ipvs")

    def acquire(self) -> Snapshot:
        """Allocate addresses and record the topology, so that whatever follows can be finished or taken away."""
        snapshot = self.folder.store.acquire(self.topology)
        self.folder.write_record(Record(self.topology, self.source))
        write_etc(self.folder.runtime, pod_files(self.topology, snapshot))
        zone = self.folder.runtime / "zone.json"
        if self.topology.proxy is not Proxy.NONE and not zone.exists():  # the control plane fills it
            zone.parent.mkdir(parents=True, exist_ok=True)
            zone_file.write(zone, zone_file.Cluster())
        return snapshot

    def down(self, *, wait: float = LOCK_WAIT) -> bool:
        """Take the lab away with everything in it; say whether there was anything."""
        return remove(self.name, wait=wait)

    def status(self) -> Status:
        """Compare the lab with what it should be."""
        return self._compare(self.snapshot)

    def _compare(self, snapshot: Snapshot) -> Status:
        plan = build(self.topology, snapshot)
        with LinuxKernel(self.keeper) as kernel:
            state = kernel.observe(self.name, plan.objects)
        return Status(plan, state, tuple(diff(state.objects, plan.objects)))

    def check(self, limit: int = LIMIT, *, wait: float = 0.0) -> Report:
        """Test who reaches whom, with at most `limit` probes between pairs, and the topology's own checks.

        Repeats a check that failed for up to `wait` seconds: a server in a container takes its time to listen.
        """
        from netlab.kernel import probe

        deadline = time.monotonic() + wait
        while not (report := probe.check(self.topology, self.snapshot, limit)).ok and time.monotonic() < deadline:
            time.sleep(RETRY)
        return report

    # --- what is in it ---

    def processes(self) -> list[ProcessState]:
        """Return what became of every process of a pod that the lab keeps."""
        return [state for state in self.keeper.states() if isinstance(state.process, Process)]

    def forwarders(self) -> list[ProcessState]:
        """Return what became of the forwarders of the backend udp, by node."""
        return [state for state in self.keeper.states() if isinstance(state.process, Forwarder)]

    def counters(self, node: str) -> Mapping[str, int]:
        """Return what a node's forwarder has carried and dropped (`tunnel.counters.NAMES`); empty when it has not."""
        from netlab.tunnel import counters

        file = self.keeper.counters(node)
        pid = next((state.pid for state in self.forwarders() if state.owner == node), None)
        return (counters.find_now(file, pid) if pid else counters.find(file)) or {}

    def log_lines(self, pod: str, container: str) -> list[str]:
        """Return what a container, or a node's `forwarder`, has written, older output first."""
        newest = self.keeper.log(pod, container)
        files = (newest.with_name(newest.name + ".1"), newest)
        return [line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()]

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def remove(name: str, *, wait: float = LOCK_WAIT) -> bool:
    """Take a lab away by its name alone; say whether there was anything. Needs nothing of its folder.

    Raises NetlabError naming processes that somebody else runs inside; the lab is gone all the same.
    """
    folder = LabFolder(name)
    existed = name in known_labs()
    with folder.lock(wait), LinuxKernel(Supervisor(name, folder.runtime)) as kernel:
        existed |= name in labs_in_kernel()
        strangers = kernel.remove(name)
        folder.forget()
    if strangers:
        who = ", ".join(strangers)
        raise NetlabError(f"lab {name} is gone, but its namespaces are still used by {who}", "end these processes")
    return existed


def _rule_choices(topology: Topology) -> tuple[object, ...]:
    return topology.netfilter, topology.ip_masq, topology.families


def _restless(name: str, ops: Sequence[Op]) -> KernelError:
    """Word a lab that is not as it should be after everything was done, more than once."""
    left = differences(ops)
    hint = "something else changes it at the same time; `netlab status` shows what differs"
    return KernelError(errno.EAGAIN, f"lab {name}: {left[0] if left else ops[0]}", f"after {ROUNDS} repairs", hint)


def require_up(status: Status, name: str) -> None:
    """Raise KernelError when the lab has no namespaces at all."""
    if not status.state.objects:
        raise KernelError(None, f"lab {name}", "it is not up", "run `netlab up`")
