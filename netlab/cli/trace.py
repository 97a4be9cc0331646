"""`netlab trace`: one packet through a lab, hop by hop, and why it went so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netlab.cli.common import complete_member, join, json_option, look_into, output_option, print_json, write_file
from netlab.errors import UsageError

if TYPE_CHECKING:
    from netlab.found import FoundLab
    from netlab.service.known import Known
    from netlab.trace.model import Hop, Trace
    from netlab.trace.question import Options, Question

STYLES = {
    "title": {"bold": True},
    "way": {"underline": True},
    "member": {"bold": True, "fg": "cyan"},
    "device": {"fg": "cyan"},
    "event": {"fg": "blue"},
    "change": {"fg": "yellow"},
    "cause": {},
    "good": {"fg": "green", "bold": True},
    "bad": {"fg": "red", "bold": True},
    "aside": {"dim": True},
}


F = TypeVar("F", bound=Callable[..., Any])


def probe_options(command: F) -> F:
    """Add what says which packet is meant."""
    for decorate in (
        click.option("--ttl", type=click.IntRange(1, 255), help="Time to live."),
        click.option("--df", is_flag=True, help="Do not fragment."),
        click.option("--size", type=click.IntRange(44, 65535), help="Bytes of the IP packet."),
        click.option("-6", "version", flag_value=6, type=int, help="By IPv6."),
        click.option("-4", "version", flag_value=4, type=int, help="By IPv4."),
        click.option("--icmp", "protocol", flag_value="icmp", help="An echo request: the default without a port."),
        click.option("--udp", "protocol", flag_value="udp", help="A UDP datagram."),
        click.option("--tcp", "protocol", flag_value="tcp", help="A TCP connection's first segment."),
        click.option("-l", "--lab", help="The lab, where there are several."),
    ):
        command = decorate(command)
    return command


@click.command("trace", context_settings={"max_content_width": 100})
@probe_options
@click.option("--by", type=click.Choice(["ebpf", "sockets", "counters"]), help="See packets by this, not by the best.")
@click.option("--count", default=1, type=click.IntRange(1, 1000), help="Send so many, show the first, count the ends.")
@click.option("--wait", type=click.FloatRange(0, 3600), help="Seconds to wait: 1 for an answer, 60 for a --flow.")
@click.option("--flow", metavar="FILTER", help="Follow real traffic, the next packet that a filter lets pass.")
@click.option("--detail", is_flag=True, help="Show each layer's fields, as sent and where they changed.")
@click.option("--reply", is_flag=True, help="Show the answer's way back too.")
@click.option("--pcapng", metavar="FILE", type=click.Path(), help="Also write it for Wireshark, with comments.")
@click.option("--html", metavar="FILE", type=click.Path(), help="Also write it as a page that steps through it.")
@click.option("--svg", metavar="FILE", type=click.Path(), help="Also draw it.")
@output_option
@json_option
@click.argument("src", metavar="SRC", required=False, shell_complete=complete_member)
@click.argument("dst", metavar="DST", required=False, shell_complete=complete_member)
@click.pass_context
def trace_command(
    ctx: click.Context,
    lab: str | None,
    protocol: str | None,
    version: int | None,
    size: int | None,
    df: bool,
    ttl: int | None,
    by: str | None,
    count: int,
    wait: float | None,
    flow: str | None,
    detail: bool,
    reply: bool,
    pcapng: str | None,
    html: str | None,
    svg: str | None,
    output: str,
    src: str | None,
    dst: str | None,
) -> None:
    """Send a probe from SRC to DST and show where it came by, how it was changed there, and why.

    SRC is a pod, node or machine. DST is one too, `pod/web-1:8080` with a port, a Service (`svc/web:80`), a NodePort
    (`node/n1:30080`) or an address. Exit status 1: it did not arrive, or was refused.

    With --flow nothing is sent: the next packet that leaves SRC, or anybody without it, and that the FILTER lets pass
    (tcpdump's language: 'udp port 53') is followed, and what answers it.
    """
    from netlab.trace.question import Options
    from netlab.trace.render.as_json import as_json
    from netlab.trace.render.tally import tally
    from netlab.trace.render.tree import nothing, tree

    join()
    found = look_into(lab)
    if flow is None:
        options = Options(size, df, ttl, 1.0 if wait is None else wait)
        once = _probing(found, (src, dst), protocol, version, options, by)
    else:
        _refuse_with_flow(ctx.params)
        once = _following(found, flow, src, wait)
    results = [once() for _ in range(count)]
    if output == "json":
        print_json([as_json(one) for one in results] if count > 1 else as_json(results[0]))
    else:
        width = shutil.get_terminal_size().columns
        layers = _layers if detail else nothing
        for line in tree(results[0], width=width, both_ways=reply, style=style, detail=layers):
            click.echo(line)
        for line in tally(results) if count > 1 else ():
            click.echo(line)
    _write_files(results[0], found, pcapng, html, svg, both_ways=reply)
    raise SystemExit(0 if all(one.arrived for one in results) else 1)


def _probing(
    lab: FoundLab,
    words: tuple[str | None, str | None],
    protocol: str | None,
    version: int | None,
    options: Options,
    by: str | None,
) -> Callable[[], Trace]:
    """Return what sends a probe and says what became of it."""
    from netlab.trace.collect import Mechanism
    from netlab.trace.run import trace

    src, dst = words
    if src is None or dst is None:
        raise UsageError(f"{'from whom, and ' if src is None else ''}to whom?", "netlab trace SRC DST")
    question = make_question(lab, (src, dst), protocol, version, options)
    return lambda: trace(lab, question, Mechanism(by) if by else None)


def _following(lab: FoundLab, text: str, src: str | None, wait: float | None) -> Callable[[], Trace]:
    """Return what follows a packet of real traffic."""
    from netlab.bpf.pcap_filter import packet_filter
    from netlab.trace.flow import Flow
    from netlab.trace.question import source_member
    from netlab.trace.run import trace_flow

    source = source_member(lab.topology, src) if src else ""
    flow = Flow(text, packet_filter(text), source, 60.0 if wait is None else wait)
    return lambda: trace_flow(lab, flow)


def _layers(hop: Hop) -> Iterable[tuple[str, Sequence[str]]]:
    """Return the layers of a packet, of as much as was kept of it; a prediction has none."""
    from netlab.packets import fields

    return fields(hop.frame + hop.packet, bare=not hop.frame) if hop.packet else ()


def _refuse_with_flow(given: Mapping[str, Any]) -> None:
    """Raise UsageError for what says how to send a probe."""
    words = {
        "protocol": "--{}",
        "version": "-{}",
        "size": "--size",
        "df": "--df",
        "ttl": "--ttl",
        "by": "--by",
        "dst": "DST",
    }
    if wrong := [form.format(given[name]) for name, form in words.items() if given[name]]:
        hint = "what is followed is said by the filter: 'ip6 and tcp port 80'"
        raise UsageError(f"nothing is sent with --flow, so {', '.join(wrong)} cannot be asked for", hint)


def _write_files(
    result: Trace, lab: FoundLab, pcapng: str | None, html: str | None, svg: str | None, *, both_ways: bool
) -> None:
    """Write the capture, the page and the drawing of a trace, where they are asked for. Raises NetlabError."""
    if pcapng:
        from netlab.trace.render.capture_file import capture_file

        write_file(pcapng, capture_file(result))
    if html:
        from netlab.trace.render.page import as_page

        write_file(html, as_page(result, lab.topology, lab.snapshot).encode())
    if svg:
        from netlab.trace.render.svg import as_svg

        write_file(svg, as_svg(result, lab.topology, lab.snapshot, both_ways=both_ways).encode())


def make_question(
    lab: FoundLab, words: tuple[str, str], protocol: str | None, version: int | None, options: Options
) -> Question:
    """Return what the words of a command line ask for. Raises UsageError."""
    from netlab.trace.question import Protocol, ask

    snapshot = lab.snapshot
    return ask(
        lab.topology,
        snapshot,
        words,
        protocol=Protocol(protocol) if protocol else None,
        version=version,
        options=options,
        find_service=lambda namespace, name: _known(lab, name, namespace),
        find_addresses=lambda member: lab.addresses(member, snapshot),
    )


def _known(lab: FoundLab, service: str, namespace: str) -> Known:
    from netlab.cli.svc import find_known

    return find_known(lab, service, namespace)


def style(text: str, what: str) -> str:
    """Colour what stands out in a tree."""
    return click.style(text, **STYLES[what])  # type: ignore[arg-type]
