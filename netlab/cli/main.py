"""The `netlab` command: finds the sub-command's module, and turns errors into messages and exit statuses."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from netlab import __version__
from netlab.errors import NetlabError, TopologyError, UsageError

# name: (module under netlab.cli, the line that `netlab --help` shows). A module is imported when its command is used.
COMMANDS = {
    "up": ("up", "Make a lab what its topology file says."),
    "down": ("down", "Take a lab away."),
    "ls": ("ls", "List the labs on this machine."),
    "status": ("status", "Show a lab, and what differs from its topology."),
    "inspect": ("inspect", "Show everything in a lab, namespace by namespace."),
    "exec": ("run", "Run a command in a pod, node or router."),
    "shell": ("run", "Open a shell in a pod, node or router."),
    "logs": ("logs", "Show what a pod's containers have written."),
    "address": ("address", "Print the address of a pod, node or router."),
    "trace": ("trace", "Send a probe, show its way hop by hop, and why it went so."),
    "explain": ("explain", "Show the way that a packet would take, without sending one."),
    "demo": ("demo", "Guided demos: see one thing happen, step by step."),
    "capture": ("capture", "Show the frames that cross an interface."),
    "check": ("check", "Test who reaches whom."),
    "svc": ("svc", "A Service's rules on a node: with counters, and in words."),
    "get": ("objects", "Show Services, endpoints, pods and workloads."),
    "apply": ("apply", "Make Services, pods and workloads of Kubernetes manifests."),
    "delete": ("objects", "Delete objects that were applied."),
    "scale": ("objects", "Change how many pods a workload has."),
    "rollout": ("objects", "Wait for a workload's new pods, or replace them all."),
    "bench": ("bench", "Compare pod networks: throughput and round trip."),
    "graph": ("graph", "Draw a lab: mermaid, Graphviz dot or SVG."),
    "vm": ("vm", "Small virtual machines on a private network: up, down, ls, exec, console."),
    "doctor": ("doctor", "Say what this kernel and machine can run."),
    "init": ("init", "Write a commented topology file to start from."),
    "schema": ("init", "Print the JSON Schema of topology files, for editors."),
    "completion": ("completion", "Print the shell's completion script."),
}
ALIASES = {"deploy": "up", "destroy": "down", "list": "ls"}  # containerlab's words
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"netlab.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A reader that has gone (`netlab ls | head -1`) is no failure, though click would say so."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a command for a mistyped one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            import difflib

            close = difflib.get_close_matches(args[0], [*COMMANDS, *ALIASES], n=1)
            hint = f"did you mean `netlab {close[0]}`?" if close else "`netlab --help` lists the commands"
            raise UsageError(f"there is no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="netlab")
def cli() -> None:
    """Container-networking labs on one Linux machine.

    `netlab up topology.yaml` makes nodes and pods of namespaces, veth pairs and bridges, with a pod network as flannel
    makes it between the nodes; `netlab down` takes every trace of it away.
    """


def main() -> None:
    """Run the command line. Mistakes end in a message and an exit status, never in a traceback."""
    try:
        status = cli.main(prog_name="netlab", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        status = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("netlab: interrupted; run the same command again to finish, or `netlab down`", err=True)
        status = INTERRUPTED
    except TopologyError as exc:
        click.echo(str(exc), err=True)  # FILE:LINE:COLUMN at the start of each line, as editors and terminals expect it
        status = exc.exit_status
    except NetlabError as exc:
        click.echo(f"netlab: {exc}", err=True)
        status = exc.exit_status
    sys.exit(status if isinstance(status, int) else 0)
