"""`netlab capture`: what crosses interfaces, of one member or of the whole lab, while a command runs or for a while."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click

from netlab import names
from netlab.cli.common import complete_member, join, look_into
from netlab.errors import UsageError

if TYPE_CHECKING:
    from netlab.cli.capture_output import Output
    from netlab.found import FoundLab
    from netlab.kernel.capture import Captures, Packet

ALL, ANY = "all", "any"
USUAL = "eth0"
SHOWN = 100  # frames that are put on the screen unless more are asked for
IDLE, IDLE_AFTER_COMMAND = 10.0, 0.3  # seconds
FOREVER = float("inf")
TURN, CHILD_TURN = 1.0, 0.05  # seconds: no wait is longer, and none for a command that runs
ENDINGS = (signal.SIGINT, signal.SIGTERM)


class CaptureCommand(click.Command):
    """A command that ends with another one, behind `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set apart what is behind `--`: words before it are members."""
        if "--" in args:
            place = args.index("--")
            ctx.obj = tuple(args[place + 1 :])
            args = args[:place]
        return super().parse_args(ctx, args)


@click.command("capture", cls=CaptureCommand, options_metavar="[OPTIONS]")
@click.option("-l", "--lab", help="The lab, where there are several.")
@click.option("-i", "--interface", help="The interface, or `any`: eth0 of one member, any of several.")
@click.option("-f", "--filter", "filter_text", default="", help="A filter as tcpdump's: 'udp port 8472'.")
@click.option("-c", "--count", type=click.IntRange(0), help="Stop after so many frames: 100 on the screen; 0: never.")
@click.option("--idle", type=float, help="Stop when nothing came for so many seconds: 10 on the screen.")
@click.option("-w", "--write", type=click.Path(allow_dash=True), help="Write pcapng to this file, or - for a pipe.")
@click.argument("members", metavar="POD|NODE|all... [-- COMMAND]", nargs=-1, shell_complete=complete_member)
@click.pass_context
def capture_command(
    ctx: click.Context,
    lab: str | None,
    interface: str | None,
    filter_text: str,
    count: int | None,
    idle: float | None,
    write: str | None,
    members: tuple[str, ...],
) -> None:
    """Show the frames that cross interfaces, inner headers included, or write them to a file.

    Behind `--` a COMMAND may follow: frames are captured while it runs. Ctrl-C ends a capture with what it has.

    \b
    netlab capture n1 -- netlab exec web-1 -- ping -c1 10.244.2.2
    netlab capture all -f 'udp port 8472' -w lab.pcapng
    netlab capture all -w - | wireshark -k -i -
    """
    from netlab.bpf.pcap_filter import kernel_filter
    from netlab.kernel.capture import Captures

    join()
    command: tuple[str, ...] = ctx.obj or ()
    namespaces = _namespaces(look_into(lab), members)
    chosen = interface or (ANY if len(namespaces) > 1 else USUAL)
    program = kernel_filter(filter_text)
    limit = count if count is not None else 0 if write else SHOWN
    patience = idle if idle is not None else IDLE_AFTER_COMMAND if command else FOREVER if write else IDLE
    with Captures(
        list(namespaces), None if chosen == ANY else chosen, program, everywhere=ALL not in members
    ) as captures:
        outputs = _outputs(
            write, namespaces, captures, filter_text, after_command=bool(command), several=len(captures.interfaces) > 1
        )
        seen = _run(captures, outputs, command, limit or None, patience)
        dropped = captures.dropped()
        for output in outputs:
            output.end(captures.received, dropped)
        click.echo(_counts(seen, len(captures.interfaces), dropped, namespaces), err=True)


def _namespaces(lab: FoundLab, members: Sequence[str]) -> dict[str, str]:
    """Return the namespaces that are meant, with what to call them. Raises UsageError and KernelError."""
    from netlab.trace.model import UNDERLAY
    from netlab.trace.places import find_namespaces

    if not members:
        raise UsageError("whose frames?", "name pods and nodes, or `all`; a command to run comes behind `--`")
    if ALL in members:
        found = {name: names.find_owner(name) for name in find_namespaces(lab).values()}
        return {name: (owner.name if owner else name) or UNDERLAY for name, owner in found.items()}
    return {lab.netns(member): member for member in members}


def _outputs(
    write: str | None,
    namespaces: Mapping[str, str],
    captures: Captures,
    filter_text: str,
    *,
    after_command: bool,
    several: bool,
) -> list[Output]:
    from netlab.cli.capture_output import PCAP, STANDARD_OUTPUT, Pcap, Pcapng, Screen

    found: list[Output] = []
    if write and write.endswith(PCAP):
        found.append(Pcap(write, captures.interfaces))
    elif write:
        found.append(Pcapng(write, namespaces, filter_text))
    if not write or (after_command and write != STANDARD_OUTPUT):
        found.append(Screen(namespaces, several=several, at_end=after_command, most=SHOWN if write else None))
    return found


def _counts(seen: int, places: int, dropped: Mapping[str, int], namespaces: Mapping[str, str]) -> str:
    lost = [f"{count} in {namespaces[name]}" for name, count in dropped.items() if count]
    said = f"the kernel dropped {sum(dropped.values())}: {', '.join(lost)}" if lost else "the kernel dropped none"
    return f"{seen} frame{'s' * (seen != 1)} at {places} interface{'s' * (places != 1)}; {said}"


# --- the loop --------------------------------------------------------------------------------------------------------


def _run(
    captures: Captures, outputs: Sequence[Output], command: Sequence[str], limit: int | None, patience: float
) -> int:
    """Hand frames on until there are enough, none come, the user ends it, or their reader has gone; return how many."""

    def put(packets: Sequence[Packet]) -> int:
        for output in outputs:
            output.put(packets, captures.interfaces)
        return len(packets)

    seen = 0
    with _endings() as ended:
        put([])  # a reader learns at once what there is to come
        child = _start(command) if command else None
        for packets in _batches(captures, ended, child, patience, reader=any(one.has_reader for one in outputs)):
            seen += put(packets if limit is None else packets[: limit - seen])
            if seen == limit:
                break
        if child:
            child.wait()
    return seen


def _batches(
    captures: Captures, ended: int, child: subprocess.Popen[bytes] | None, patience: float, *, reader: bool
) -> Iterator[list[Packet]]:
    """Yield frames as they come, until none have for so many seconds. Raises BrokenPipeError."""
    watched = {ended: select.POLLIN} | ({sys.stdout.fileno(): 0} if reader else {})
    quiet_since = time.monotonic()
    while True:
        working = child is not None and child.poll() is None
        quiet_since = time.monotonic() if working else max(quiet_since, captures.last_news)
        left = quiet_since + patience - time.monotonic()
        if left <= 0:
            break
        ready = captures.wait(min(left, CHILD_TURN if working else TURN), watched)
        if ended in ready:
            break
        if ready:
            raise BrokenPipeError
        yield captures.take()
    yield captures.finish()


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the command with its output on our standard error, so that only frames go to standard output."""
    try:
        return subprocess.Popen(command, stdout=2)
    except OSError as exc:
        raise UsageError(f"cannot run {command[0]}: {exc.strerror}") from exc


@contextmanager
def _endings() -> Iterator[int]:
    """Yield a descriptor that is readable once somebody wants an end. Who wants it twice has it the usual way."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    usual = {number: signal.getsignal(number) for number in ENDINGS}

    def restore() -> None:
        for number, action in usual.items():
            signal.signal(number, action)

    def end(number: int, frame: FrameType | None) -> None:
        os.write(writer, b".")
        restore()

    for number, action in usual.items():
        if action is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield reader
    finally:
        restore()
        os.close(reader)
        os.close(writer)
