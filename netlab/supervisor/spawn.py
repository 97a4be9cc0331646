"""How a process comes to be: namespaces, files, standard streams, exec.

Pause is spawned without a fork of this process, which makes a thousand of them cheap; so is a node's daemon, which has
the node's network and this machine's files. A container is a fork, because it changes its file system before its exec.
Between the two it tells its parent over a socket: first what could not be set up (with a descriptor of its mount
namespace), then, if the exec failed, why. The socket closes on exec. A daemon keeps its own, to say that it is ready.
"""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from typing import NoReturn

from netlab import names
from netlab.errors import NetlabError
from netlab.kernel import mounts, netns
from netlab.kernel.residents import MARK
from netlab.kernel.start import IGNORED_BY_PYTHON, NOT_FOUND, exit_status_of
from netlab.supervisor.spec import NOTIFY, Files, Spec

# Programs of netlab's own, and how this Python runs each; -S where nothing of site-packages is needed.
BUILT_IN = {"netlab-dns": ("-P", "-m", "netlab.dns"), "netlab-echo": ("-S", "-P", "-m", "netlab.echo")}
RUNTIME = "$(NETLAB_RUNTIME)"  # stands for the lab's runtime folder in their arguments
_MESSAGE_MAX = 65536
_SETUP_TIMEOUT = 10.0  # seconds; a working directory on a dead network file system must not stop the lab


@dataclass(slots=True)
class Birth:
    """A process that was started. `output` is open until its last writer has gone.

    `channel` is open until the exec of a container, and for the life of a daemon.
    """

    pid: int
    channel: socket.socket
    output: FileIO


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a container's set-up went. A failure comes with an exit status.

    `mount_namespace` is a descriptor, so that the inode number stays taken; -1 where it did not come so far.
    """

    mount_namespace: int = -1
    notes: tuple[str, ...] = ()
    failure: str = ""
    status: int = 0


def spawn_pause(spec: Spec, environment: Mapping[str, str]) -> int:
    """Start the process that holds a pod and return its pid. Leaves this thread in the pod's namespace."""
    program, name = _pause_program(environment["PATH"])
    netns.enter(spec.netns)
    streams = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    return os.posix_spawn(
        program,
        [name, "infinity"],
        environment,
        file_actions=streams,
        setsid=True,
        setsigdef=IGNORED_BY_PYTHON,
        setsigmask=(),
    )


@functools.cache
def _pause_program(path: str) -> tuple[str, str]:
    """Return the program that does nothing, and the name to give it."""
    program = shutil.which("sleep", path=path)
    if program is None:
        raise NetlabError("there is no program `sleep`", "install coreutils")
    is_sleep_alone = os.path.basename(os.path.realpath(program)) == "sleep"
    return program, "pause" if is_sleep_alone else "sleep"  # busybox and uutils go by the name that they are given


def spawn_daemon(spec: Spec, files: Files, environment: Mapping[str, str]) -> Birth:
    """Start a node's daemon with its configuration. Leaves this thread in the node's namespace.

    SIGHUP is held back until the daemon is prepared for it.
    """
    write_config(spec, files)
    module = spec.argv[0]
    argv = [sys.executable, "-P", "-m", module, str(files.config(*spec.key)), str(files.counters(*spec.key))]
    netns.enter(spec.netns)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    theirs.set_inheritable(True)
    try:
        pid = os.posix_spawn(
            argv[0],
            argv,
            {**environment, NOTIFY: str(theirs.fileno())},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_DUP2, writer, 2),
            ],
            setsid=True,
            setsigdef=(signal.SIGTERM, signal.SIGCHLD, *IGNORED_BY_PYTHON),
            setsigmask=(signal.SIGHUP,),
        )
    finally:
        theirs.close()
        os.close(writer)
    os.set_blocking(reader, False)
    ours.setblocking(False)
    return Birth(pid, ours, FileIO(reader))


def write_config(spec: Spec, files: Files) -> None:
    """Write what a daemon is told, so that it can read it without privileges."""
    path = files.config(*spec.key)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(spec.config or "")
    os.replace(draft, path)


def fork_container(spec: Spec, files: Files, environment: Mapping[str, str], open_files: tuple[int, int]) -> Birth:
    """Start a container. `open_files` is the limit that it gets, in place of this process's own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    output = FileIO(reader)
    os.set_blocking(reader, False)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _become(spec, files, environment, open_files, theirs, writer)
            finally:
                os._exit(NOT_FOUND)
    finally:
        theirs.close()
        os.close(writer)
    return Birth(pid, ours, output)


def await_exec(birth: Birth) -> Arrival:
    """Wait until a container has become its program, and say how that went."""
    birth.channel.settimeout(_SETUP_TIMEOUT)
    with birth.channel as channel:
        try:
            text, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_MAX, 1)
            if not descriptors:
                return Arrival(failure=text.decode(), status=NOT_FOUND)
            os.set_inheritable(descriptors[0], False)  # recv_fds of Python 3.11 ignores MSG_CMSG_CLOEXEC
            notes = tuple(text.decode().splitlines()[1:])
            status, _, failure = channel.recv(_MESSAGE_MAX).decode().partition(" ")
            return Arrival(descriptors[0], notes, failure, int(status or 0))
        except TimeoutError:
            return Arrival(failure=f"its set-up takes longer than {_SETUP_TIMEOUT:g} s", status=NOT_FOUND)


def environment_of(spec: Spec, base: Mapping[str, str], lab: str) -> dict[str, str]:
    """Return a process's environment variables: the base, and what Kubernetes and netlab add, its own."""
    if spec.config is not None:
        return {**base, MARK: lab, "PYTHONPATH": os.environ["PYTHONPATH"]}
    ours = {"HOSTNAME": host_name(spec), MARK: lab, "NETLAB_POD": spec.pod, "NETLAB_CONTAINER": spec.name}
    return {**base, **ours, **dict(spec.env)}


def command_of(spec: Spec, files: Files, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a container and its environment; a program of netlab's own is run by this Python."""
    if spec.argv[0] not in BUILT_IN:
        return list(spec.argv), dict(environment)
    words = [word.replace(RUNTIME, str(files.root)) for word in spec.argv[1:]]
    argv = [sys.executable, *BUILT_IN[spec.argv[0]], *words]
    return argv, {**environment, "PYTHONPATH": os.environ["PYTHONPATH"]}


def host_name(spec: Spec) -> str:
    """Return whose namespace it is: the pod's name, the node's for hostNetwork."""
    owner = names.find_owner(spec.netns)
    return owner.name if owner and owner.name else spec.pod


def _become(
    spec: Spec,
    files: Files,
    environment: Mapping[str, str],
    open_files: tuple[int, int],
    channel: socket.socket,
    output: int,
) -> NoReturn:
    """Turn this forked process into the container."""
    try:
        _settle(output, open_files)
        notes = ["set up", *_furnish(spec, files)]  # never empty: that would read as the end
        mount_namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        socket.send_fds(channel, ["\n".join(notes).encode()], [mount_namespace])
        os.close(mount_namespace)
    except (NetlabError, OSError) as exc:
        channel.send(f"cannot set up: {exc}".encode())
        os._exit(NOT_FOUND)
    task = f"change to working directory {spec.working_dir}"
    argv, environment = command_of(spec, files, environment)
    try:
        os.chdir(spec.working_dir)
        task = f"run {argv[0]}"
        os.execvpe(argv[0], argv, environment)
    except OSError as exc:
        channel.send(f"{exit_status_of(exc)} cannot {task}: {exc.strerror}".encode())
        os._exit(exit_status_of(exc))


def _settle(output: int, open_files: tuple[int, int]) -> None:
    """Give the process a session, standard streams, and the signals and limits that a program expects."""
    for number in (signal.SIGTERM, signal.SIGCHLD, *IGNORED_BY_PYTHON):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    resource.setrlimit(resource.RLIMIT_NOFILE, open_files)


def _furnish(spec: Spec, files: Files) -> list[str]:
    """Give the process its namespaces and its files, and return what could not be done."""
    netns.enter(spec.netns)
    mounts.unshare()
    mounts.hide_namespaces()
    netns.unshare(netns.CLONE_NEWUTS)
    socket.sethostname(host_name(spec))
    notes = []
    for source, target in ((files.hosts(spec.pod), "/etc/hosts"), (files.resolv_conf(spec.pod), "/etc/resolv.conf")):
        if source.exists():
            notes += mounts.bind_file(str(source), target)
    return notes + mounts.show_devices() + mounts.show_processes()
