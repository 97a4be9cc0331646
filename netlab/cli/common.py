"""What several commands share: naming a lab, output formats, completion of names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from netlab.errors import NetlabError, UsageError

if TYPE_CHECKING:
    from netlab.found import FoundLab
    from netlab.lab import Lab

L = TypeVar("L", bound="FoundLab")

DEFAULT_FILES = ("topology.yaml", "topology.yml")

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print the result.",
)


json_option = click.option("--json", "output", flag_value="json", help="The same as -o json.")


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    from netlab.codec import to_json

    click.echo(json.dumps(to_json(value), indent=2))


def write_file(path: str, content: bytes) -> None:
    """Write a file that the user asked for. Raises NetlabError."""
    try:
        Path(path).write_bytes(content)
    except OSError as exc:
        raise NetlabError(f"cannot write {path}: {exc.strerror}") from exc


def looks_like_file(reference: str) -> bool:
    """Say whether a word means a topology file rather than a lab's name."""
    return reference == "-" or "/" in reference or reference.endswith((".yaml", ".yml"))


def default_file() -> str:
    """Return the topology file of the current folder. Raises UsageError."""
    found = [name for name in DEFAULT_FILES if Path(name).exists()]
    if not found:
        raise UsageError("no topology file was given", f"name one, or make a {DEFAULT_FILES[0]} with `netlab init`")
    return found[0]


def lab_name(reference: str | None) -> str:
    """Return the name of the lab that is meant: by name, by topology file, or the only one there is.

    A file names the lab that was brought up from it, even when it cannot be read any more.
    """
    from netlab.found import FoundLab, labs

    if reference is None:
        return _only_lab(labs())
    if not looks_like_file(reference):
        return reference
    for name in labs():
        found = FoundLab.find(name)
        if found and found.source == str(Path(reference).absolute()):
            return name
    from netlab.topology.load import load

    return load(reference).name


def _only_lab(present: list[str]) -> str:
    if "NETLAB_LAB" in os.environ:  # inside `netlab shell`
        return os.environ["NETLAB_LAB"]
    if len(present) == 1:
        return present[0]
    if not present:
        raise UsageError("no lab is up", "`netlab up FILE` makes one")
    raise UsageError(f"several labs are up: {', '.join(present)}", "say which one you mean")


def join() -> None:
    """Get the rights to look into this user's labs. Raises UsageError when the user can have none."""
    from netlab.kernel.rootless import join_if_kept

    if not join_if_kept():
        raise UsageError("no lab is up", "`netlab up FILE` makes one")


def find_lab(reference: str | None) -> Lab:
    """Return the lab that is meant, as it was last brought up. Raises UsageError."""
    from netlab.lab import Lab

    return _find(reference, Lab)


def look_into(reference: str | None) -> FoundLab:
    """Return the lab that is meant, to look into it only, which is sooner to be had. Raises UsageError."""
    from netlab.found import FoundLab

    return _find(reference, FoundLab)


def _find(reference: str | None, kind: type[L]) -> L:
    from netlab.found import labs

    name = lab_name(reference)
    found = kind.find(name)
    if found:
        return found
    present = labs()
    if name in present:
        hint = "`netlab up FILE` puts it back, `netlab down` takes the lab away"
        raise UsageError(f"the folder of lab {name} is lost or of another version of netlab", hint)
    others = f"labs here: {', '.join(present)}" if present else "no lab is up: `netlab up FILE` makes one"
    raise UsageError(f"there is no lab {name}", others)


def without_dashes(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command to run without the `--` that sets it apart from netlab's own options."""
    return command[1:] if command[:1] == ("--",) else command


def complete_lab(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a lab; files complete as well."""
    from netlab.folder import known_labs

    found = [CompletionItem(name) for name in known_labs() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_member(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a pod, node or router of the lab that is meant."""
    try:
        lab = find_lab(ctx.params.get("lab"))
    except UsageError:
        return []
    return [CompletionItem(name) for name in lab.topology.members() if name.startswith(incomplete)]
