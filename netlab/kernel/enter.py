"""Running a command inside a lab: `execute` becomes it, `run` waits for it and returns its output.

The command gets the network namespace, a host name, and a mount namespace of its own with the member's /etc/hosts and
/etc/resolv.conf and a /sys that shows its devices. Everything else is the caller's: terminal, signals, files.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from netlab import names
from netlab.errors import NetlabError, UsageError
from netlab.kernel import mounts, netns
from netlab.kernel.residents import MARK
from netlab.kernel.start import IGNORED_BY_PYTHON, NOT_FOUND, exit_status_of


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a command runs. `env` adds to the caller's environment; without `cwd` it is the caller's."""

    netns: str
    hosts: str
    resolv_conf: str
    hostname: str
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


def execute(argv: Sequence[str], place: Place) -> NoReturn:
    """Become the command: its exit status, streams, terminal and signals are this process's.

    Raises UsageError with the exit status of a shell: 127 when there is no such command, 126 when it cannot be run.
    """
    sys.stdout.flush()
    for problem in _enter(place):
        print(f"netlab: {problem}", file=sys.stderr)
    sys.stderr.flush()
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        if place.cwd is not None:
            os.chdir(place.cwd)
        os.execvpe(argv[0], list(argv), _environment(place))
    except OSError as exc:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        raise _refusal(argv[0], place, exc) from exc


def run(
    argv: Sequence[str], place: Place, *, stdin: str | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output and exit status (-N when signal N killed it).

    Raises UsageError as `execute` does, and subprocess.TimeoutExpired after `timeout` seconds.
    """

    def inside() -> subprocess.CompletedProcess[str]:
        _enter(place)  # this thread only, and the children that it makes
        return subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd=place.cwd,
            env=_environment(place),
            check=False,
        )

    try:
        return netns.run_in_thread(inside)
    except OSError as exc:
        raise _refusal(argv[0], place, exc) from exc


def start(argv: Sequence[str], place: Place, *, output: int) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a process group of its own; all that it says goes to a file descriptor.

    Raises UsageError as `execute` does.
    """

    def inside() -> subprocess.Popen[bytes]:
        _enter(place)
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=place.cwd,
            env=_environment(place),
            start_new_session=True,
        )

    try:
        return netns.run_in_thread(inside)
    except OSError as exc:
        raise _refusal(argv[0], place, exc) from exc


def _enter(place: Place) -> list[str]:
    """Move this thread into the place and return what it has to do without."""
    netns.enter(place.netns)
    try:
        mounts.unshare()
        netns.unshare(netns.CLONE_NEWUTS)
        socket.sethostname(place.hostname)
    except OSError as exc:
        raise NetlabError(f"cannot set up {place.netns} for a command: {exc.strerror}") from exc
    return mounts.bind_texts({"/etc/hosts": place.hosts, "/etc/resolv.conf": place.resolv_conf}) + mounts.show_devices()


def _environment(place: Place) -> dict[str, str]:
    """Return the command's environment. The mark tells `down` that it may end what is left of it."""
    owner = names.find_owner(place.netns)
    return {**os.environ, "HOSTNAME": place.hostname, MARK: owner.lab if owner else "", **place.env}


def _refusal(command: str, place: Place, exc: OSError) -> UsageError:
    """Say why a command did not start, with a shell's exit status."""
    if place.cwd is not None and not os.path.isdir(place.cwd):
        error = UsageError(f"cannot run {command}: there is no folder {place.cwd}", "choose another working directory")
    elif exit_status_of(exc) == NOT_FOUND:
        hint = "labs share this machine's programs: install it here, or check $PATH"
        error = UsageError(f"{command}: command not found", hint)
    else:
        error = UsageError(f"cannot run {command}: {exc.strerror}", "is it a program, and marked executable?")
    error.exit_status = exit_status_of(exc)
    return error
