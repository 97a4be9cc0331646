"""`netlab capture`: what crosses an interface, while a command runs or for a while."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import click

from netlab.cli.common import complete_member, find_lab, join, without_dashes
from netlab.errors import NetlabError, UsageError

if TYPE_CHECKING:
    from netlab.kernel.capture import Frame

LINKTYPE_ETHERNET, LINKTYPE_RAW = 1, 101  # tcpdump.org/linktypes.html; RAW begins with an IP header


@click.command("capture", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.option("-l", "--lab", help="The lab, where there are several.")
@click.option("-i", "--interface", default="eth0", show_default=True, help="The interface.")
@click.option("-c", "--count", default=100, show_default=True, help="Stop after so many frames.")
@click.option("--idle", type=float, help="Stop when nothing came for so many seconds (10; after COMMAND 0.3).")
@click.option("-w", "--write", type=click.Path(), help="Also write the frames to this pcap file.")
@click.argument("member", metavar="POD|NODE", shell_complete=complete_member)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def capture_command(
    lab: str | None,
    interface: str,
    count: int,
    idle: float | None,
    write: str | None,
    member: str,
    command: tuple[str, ...],
) -> None:
    """Show the frames that cross an interface, inner headers included, while a COMMAND runs or for a while.

    netlab capture n1 -- netlab exec web-1 -- ping -c1 10.244.2.2
    """
    from netlab.kernel.capture import Capture

    join()
    capture = Capture(find_lab(lab).netns(member), interface)
    if command:
        _run(command)
    frames = []
    for frame in capture.frames(idle=idle if idle is not None else 0.3 if command else 10.0):
        frames.append(frame)
        if not command:
            _show(frame, frames[0].when)
        if len(frames) >= count:
            break
    if command:
        for frame in frames:
            _show(frame, frames[0].when)
    capture.close()
    if write:
        _write(write, frames)


def _run(command: tuple[str, ...]) -> None:
    """Run the command with its output on our standard error, so that only frames go to standard output."""
    try:
        subprocess.run(without_dashes(command), stdout=2, check=False)
    except OSError as exc:
        raise UsageError(f"cannot run {command[0]}: {exc.strerror}") from exc


def _show(frame: Frame, start: float) -> None:
    from netlab.packets import describe

    outer, *inner = describe(frame.payload, bare=frame.bare)
    click.echo(f"{frame.when - start:9.6f} {'out' if frame.outgoing else 'in '} {outer}")
    for line in inner:
        click.echo(f"{'':14}{line}")


def _write(path: str, frames: list[Frame]) -> None:
    from scapy.utils import PcapWriter

    bare = any(frame.bare for frame in frames)
    try:
        with PcapWriter(path, linktype=LINKTYPE_RAW if bare else LINKTYPE_ETHERNET, nano=True) as writer:
            writer.write_header(None)
            for frame in frames:
                writer.write_packet(frame.payload, sec=int(frame.when), usec=int(frame.when % 1 * 1e9))
    except OSError as exc:
        raise NetlabError(f"cannot write {path}: {exc.strerror}") from exc
