"""The real kernel: carries operations out and reads back what is there. Decides nothing.

One rtnetlink socket per namespace is opened inside it and kept, so that everything else happens in this thread. The
sockets hold their namespaces: a kernel object is used in a `with` block, and lets go of all at its end.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Container, Iterable
from contextlib import ExitStack
from itertools import groupby

from netlab import names
from netlab.errors import KernelError, NetlabError, NotSupported
from netlab.kernel import netfilter, netns, observe, rtnl, sysctl, tun
from netlab.kernel.encode import Indexes, messages
from netlab.kernel.kernel import Processes
from netlab.kernel.netlink import Message, Socket
from netlab.kernel.residents import end_marked
from netlab.plan.diff import Op, Phase
from netlab.plan.objects import KEPT, Ipip, Link, Netns, Objects, State, Sysctl, Tun, Veth
from netlab.plan.text import command

DOOMED_GROUP = names.LINK_GROUP + 1  # links on their way out
CABLES_PER_BATCH = 256  # each needs its peer's namespace open
SPARE_FDS = 64


Progress = Callable[[int], None]  # told how many more operations are done


def no_progress(done: int) -> None:
    """Report progress to nobody."""


class LinuxKernel:
    """This machine's kernel and what netlab made in it. Without a keeper of processes it knows of none."""

    def __init__(self, processes: Processes | None = None) -> None:
        self._processes = processes
        self._sockets: dict[Netns, Socket] = {}
        self._indexes: dict[Netns, Indexes] = {}
        self._progress: Progress = no_progress

    def __enter__(self) -> LinuxKernel:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close(list(self._sockets))

    def observe(self, lab: str, like: Objects, only: Container[Netns] | None = None) -> State:
        """Return what a lab has, or `only` some of its namespaces; sysctls and rules are read where `like` has some."""
        running = self._processes.observe() if self._processes else {}  # first: a pod may have ended with its pause
        wanted = (name for name in self._namespaces(lab) if only is None or name in only)
        present = [name for name in wanted if netns.is_alive(name)]
        self._open(present)
        known = {name: like.get(name, frozenset()) for name in present}
        settings, rules = sysctl.read(known), netfilter.read(known)
        objects, foreign = {}, {}
        for name in present:
            found = observe.namespace(self._sockets[name], known[name])
            self._indexes[name] = Indexes(name, found.indexes)
            objects[name] = found.ours | settings[name] | rules[name] | running.get(name, frozenset())
            if found.foreign:
                foreign[name] = found.foreign
        return State(objects, foreign)

    def apply(self, ops: Iterable[Op], progress: Progress = no_progress) -> None:
        """Carry operations out, phase by phase. Raises KernelError at the first that is refused."""
        self._progress = progress
        ports: dict[Netns, set[str]] = {}
        for stage, group in groupby(ops, key=_stage):
            batch = list(group)
            self._run(stage, batch)
            for op in batch:
                if isinstance(op.new, Veth) and op.new.master and op.new.up:
                    ports.setdefault(op.netns, set()).add(op.new.name)
        for name, wanted in ports.items():
            observe.wait_for_ports(self._sockets[name], name, wanted)

    def remove(self, lab: str) -> list[str]:
        """End a lab's processes, drop all its namespaces at once, and wait until the kernel has let go of them.

        Returns the processes of others inside, in words: they keep a namespace, nameless, until they end.
        """
        fabric = names.fabric(lab)
        if self._processes:
            self._processes.stop()
        members = [name for name in self._namespaces(lab) if name != fabric]
        strangers = end_marked([*members, fabric], lab)
        self._close([*members, fabric])
        netns.remove(members)
        if netns.is_alive(fabric) and not strangers:
            netns.call(fabric, observe.wait_for_cables_to_go, len(members))
        netns.remove([fabric])
        return [f"{entry.name} (pid {entry.pid}, in {entry.netns})" for entry in strangers]

    def _namespaces(self, lab: str) -> list[Netns]:
        found = netns.names(names.fabric(lab))
        return [name for name in found if (owner := names.find_owner(name)) and owner.lab == lab]

    # --- stages of apply ---

    def _run(self, stage: Phase, ops: list[Op]) -> None:
        match stage:
            case Phase.STOP | Phase.PROCESS:
                self._keep_processes(ops)
            case Phase.UNRULE | Phase.RULES:
                netfilter.apply(ops)
            case Phase.UNLINK:
                self._unlink(ops)
            case Phase.UNNAME:
                self._close(op.netns for op in ops)
                netns.remove(op.netns for op in ops)
            case Phase.NAME:
                self._name([op.netns for op in ops])
            case Phase.SYSCTL | Phase.LINK_SYSCTL | Phase.RULE_SYSCTL:
                sysctl.write((op.netns, op.new) for op in ops if isinstance(op.new, Sysctl))
            case Phase.CABLE:
                self._connect(ops)
                return
            case Phase.TUN:
                self._make_tuns(ops)
                return
            case _:
                self._send_each(ops)
                return
        self._progress(len(ops))

    def _keep_processes(self, ops: list[Op]) -> None:
        """Hand the keeper of processes what stops and what starts."""
        assert self._processes is not None, "a plan with processes needs a kernel that was given a keeper for them"
        stop = [(op.netns, op.old) for op in ops if isinstance(op.old, KEPT)]
        start = [(op.netns, op.new) for op in ops if isinstance(op.new, KEPT)]
        self._processes.change(stop=stop, start=start)

    def _name(self, wanted: list[Netns]) -> None:
        """Make namespaces and open a socket in each. Bare files of a run that was killed halfway are replaced."""
        self._make_room(len(wanted))
        netns.remove(name for name in wanted if os.path.exists(netns.path(name)) and not netns.is_alive(name))
        for name, socket in netns.create(wanted, lambda _: Socket()).items():
            self._sockets[name] = socket
            self._indexes[name] = Indexes(name, {"lo": 1})

    def _unlink(self, ops: list[Op]) -> None:
        """Delete links, all of a namespace at once. Those that went with their other end are gone already."""
        for name, group in groupby(ops, key=lambda op: op.netns):
            self._open([name])
            present = {raw.name: raw.index for raw in observe.links(self._sockets[name])}
            doomed = [
                (rtnl.set_link(present[op.old.name], group=DOOMED_GROUP), op)
                for op in group
                if isinstance(op.old, Link) and op.old.name in present
            ]
            if doomed:
                doomed.append((rtnl.delete_group(DOOMED_GROUP), doomed[-1][1]))
                self._send(name, doomed, fine=errno.ENODEV)  # the other end's namespace may be on its way out
                present = {raw.name: raw.index for raw in observe.links(self._sockets[name])}
            self._indexes[name] = Indexes(name, present)

    def _connect(self, ops: list[Op]) -> None:
        """Make cables: each is made in one namespace and reaches into another."""
        peers = [op.new.peer.netns for op in ops if isinstance(op.new, Veth)]
        self._open({op.netns for op in ops} | set(peers))
        for start in range(0, len(ops), CABLES_PER_BATCH):
            batch = ops[start : start + CABLES_PER_BATCH]
            with ExitStack() as stack:
                fds = {}
                for name in set(peers[start : start + CABLES_PER_BATCH]):
                    fds[name] = os.open(netns.path(name), os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, fds[name])
                self._send_each(batch, fds)

    def _make_tuns(self, ops: list[Op]) -> None:
        """Make TUN devices, each by an ioctl inside its namespace, and configure them."""
        wanted: dict[Netns, list[str]] = {}
        for op in ops:
            if isinstance(op.new, Tun):
                wanted.setdefault(op.netns, []).append(op.new.name)
        self._open(wanted)
        made = netns.call_each(wanted, lambda name: {device: tun.create(name, device) for device in wanted[name]})
        for name, indexes in made.items():
            for device, index in indexes.items():
                self._indexes[name].learn(device, index)
        self._send_each(ops)

    def _send_each(self, ops: list[Op], fds: dict[Netns, int] | None = None) -> None:
        """Send operations, one batch for each namespace."""
        by_netns: dict[Netns, list[Op]] = {}
        for op in ops:
            by_netns.setdefault(op.netns, []).append(op)
        self._open(by_netns)
        for name, group in by_netns.items():
            self._send(name, [(message, op) for op in group for message in messages(op, self._indexes, fds or {})])
            self._progress(len(group))

    def _send(self, name: Netns, batch: list[tuple[Message, Op]], *, fine: int = 0) -> None:
        """Have the kernel do what a batch says. `fine`: an error number that is none here."""
        for failure in self._sockets[name].request([message for message, _ in batch]):
            if failure.errno == fine:
                continue
            raise _refusal(batch[failure.position][1], failure.errno, failure.reason)

    # --- sockets ---

    def _open(self, wanted: Iterable[Netns]) -> None:
        """Open sockets, and learn indexes, in namespaces that this kernel object has not been in yet."""
        missing = [name for name in wanted if name not in self._sockets]
        if not missing:
            return
        self._make_room(len(missing))
        self._sockets |= netns.call_each(missing, lambda _: Socket())
        for name in missing:
            self._indexes[name] = Indexes(name, {raw.name: raw.index for raw in observe.links(self._sockets[name])})

    def _close(self, unwanted: Iterable[Netns]) -> None:
        for name in unwanted:
            if name in self._sockets:
                self._sockets.pop(name).close()
                self._indexes.pop(name)

    def _make_room(self, more: int) -> None:
        """Raise the limit of open files when so many sockets need it."""
        needed = len(self._sockets) + more + CABLES_PER_BATCH + SPARE_FDS
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft >= needed:
            return
        if hard < needed:
            hint = f"raise it: `ulimit -Hn {needed}` as root, or LimitNOFILE= of the service"
            raise NotSupported(f"a limit of {needed} open files (it is {hard})", "a lab of this size", hint)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _stage(op: Op) -> Phase:
    """Join the phases that stay within a namespace into one stage."""
    return Phase.CONFIGURE if Phase.CONFIGURE <= op.phase <= Phase.ROUTE else op.phase


def _refusal(op: Op, code: int, reason: str) -> NetlabError:
    """Say what the kernel refused, as the command that would do it by hand."""
    kind = type(op.new).__name__.lower()
    if code == errno.EOPNOTSUPP and isinstance(op.new, Link):
        module = "ipip" if isinstance(op.new, Ipip) else kind
        return NotSupported(f"the link type {kind}", f"{op.netns}: {op.new.name}", f"modprobe {module}, if it has it")
    return KernelError(code, "; ".join(command(op)), reason)
