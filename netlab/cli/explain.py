"""`netlab explain`: the way that a packet would take, from the kernel's tables, without sending one."""

from __future__ import annotations

import shutil

import click

from netlab.cli.common import complete_member, join, json_option, look_into, output_option, print_json
from netlab.cli.trace import make_question, probe_options, style


@click.command("explain", context_settings={"max_content_width": 100})
@probe_options
@output_option
@json_option
@click.argument("src", metavar="SRC", shell_complete=complete_member)
@click.argument("dst", metavar="DST", shell_complete=complete_member)
def explain_command(
    lab: str | None,
    protocol: str | None,
    version: int | None,
    size: int | None,
    df: bool,
    ttl: int | None,
    output: str,
    src: str,
    dst: str,
) -> None:
    """Show the way that a packet from SRC to DST would take, from the kernel's own tables. Nothing is sent.

    Routes, neighbours and FDB entries are looked up; of Service rules that choose by chance, one choice is followed.
    `netlab trace` sends a packet and says where it went another way. Exit status 1: it would not arrive.
    """
    from netlab.trace.foresee import explained
    from netlab.trace.question import Options
    from netlab.trace.render.as_json import as_json
    from netlab.trace.render.tree import tree

    join()
    found = look_into(lab)
    question = make_question(found, (src, dst), protocol, version, Options(size, df, ttl))
    result = explained(found, question)
    if output == "json":
        print_json(as_json(result))
    else:
        for line in tree(result, width=shutil.get_terminal_size().columns, both_ways=False, style=style):
            click.echo(line)
    raise SystemExit(0 if result.arrived else 1)
