"""Runs a packet filter's programs inside a node's namespace, and decides which variant of iptables writes there."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from netlab.errors import NotSupported, ProgramError
from netlab.kernel import netns, tool
from netlab.kernel.tool import Call
from netlab.paths import search_path

VARIANTS = ("iptables-legacy", "iptables-nft")
WAIT = ("-w", "5")  # seconds for another one's xtables lock
PIECE = 1 << 16  # characters handed to a tool at once
PIPE_BYTES = 1 << 20  # so that neither waits for the other at every piece; the most that every user may have

Ignoring = Callable[[int], AbstractContextManager[None]]  # given a pid that has not begun its work yet


def run(name: str, argv: tuple[str, ...], text: Iterable[str] = (), *, ignoring: Ignoring | None = None) -> str:
    """Run a program in a namespace, feed it text as it is made, and return its output. Raises ProgramError.

    The program reads while the text is still made. What it says goes to a file: both could block on pipes otherwise.
    """
    with tempfile.TemporaryFile() as said:
        process = netns.call(name, tool.start, Call(name, argv, ""), said)
        with contextlib.suppress(OSError):  # a user's pipes have a limit in all
            fcntl.fcntl(process.stdin or 0, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            with ignoring(process.pid) if ignoring else nullcontext():
                with contextlib.suppress(BrokenPipeError):  # it ended early, and says why
                    _feed(process, text)
                output, _ = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            said.seek(0)
            raise ProgramError(argv, process.returncode, said.read(1 << 14).decode(errors="replace"), subject=name)
    return output


def _feed(process: subprocess.Popen[str], text: Iterable[str]) -> None:
    assert process.stdin is not None
    waiting: list[str] = []
    size = 0
    for piece in text:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE:
            process.stdin.write("".join(waiting))
            waiting, size = [], 0
    process.stdin.write("".join(waiting))
    process.stdin.flush()


def restore(name: str, variant: str, version: int, text: Iterable[str], *, ignoring: Ignoring | None = None) -> None:
    """Give text to iptables-restore as kube-proxy does (facts.md 3.1). Each of its tables changes at once."""
    run(name, (_program(variant, version, "restore"), *WAIT, "--noflush", "--counters"), text, ignoring=ignoring)


def save(name: str, variant: str, version: int) -> str:
    """Return what iptables-save prints of every table that there is."""
    return run(name, (_program(variant, version, "save"),))


def nft(name: str, text: Iterable[str], *, ignoring: Ignoring | None = None) -> None:
    """Give text to `nft -f`: one transaction."""
    run(name, ("nft", "-f", "-"), text, ignoring=ignoring)


def _program(variant: str, version: int, verb: str) -> str:
    return f"{variant.replace('iptables', 'ip6tables' if version == 6 else 'iptables', 1)}-{verb}"


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Put off the search for garbage cycles while text is made: it takes a quarter of that time, and finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# --- which iptables (facts.md 9.8) -----------------------------------------------------------------------------------


def choose_variant(name: str, wanted: str, versions: Iterable[int]) -> str:
    """Return "iptables-legacy" or "iptables-nft" for a node, as kube-proxy's wrapper does.

    That is the wanted one, or the one that has Kubernetes' chains, or else more rules, in the node, or else what the
    machine means by "iptables". Rules in both would each have a say on every packet. Raises NotSupported without one.
    """
    versions = tuple(versions)
    if wanted in VARIANTS:
        if not _exists(wanted):
            raise NotSupported(f"the program {wanted}-restore", "the packet filter of nodes", "apt install iptables")
        return wanted
    default = _default()
    if wanted:
        return default
    others = (variant for variant in VARIANTS if variant != default and _exists(variant))
    weights = {variant: _weight(name, variant, versions) for variant in others}
    if not any(map(any, weights.values())):  # then there is nothing to weigh the default against
        return default
    weights = {default: _weight(name, default, versions), **weights}
    return max(weights, key=lambda variant: weights[variant])  # the first of equals


def _weight(name: str, variant: str, versions: tuple[int, ...]) -> tuple[bool, int]:
    """Return whether a variant holds Kubernetes' chains in a namespace, and how many rules."""
    if variant == "iptables-legacy" and not netns.call(name, _has_legacy_tables):
        return False, 0
    lines = [line for version in versions for line in save(name, variant, version).splitlines()]
    has_chains = any(line.startswith(":KUBE-") for line in lines)
    return has_chains, sum(line.startswith("-A ") for line in lines)


@functools.cache
def _default() -> str:
    """Return which variant the machine's "iptables" is: the program says so itself."""
    tool.require(["iptables"])
    argv = [shutil.which("iptables", path=search_path()) or "iptables", "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return "iptables-nft" if "nf_tables" in said else "iptables-legacy"


def _exists(variant: str) -> bool:
    return shutil.which(f"{variant}-restore", path=search_path()) is not None


def _has_legacy_tables() -> bool:
    for names in ("ip_tables_names", "ip6_tables_names"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without them
            if Path(f"/proc/thread-self/net/{names}").read_text():
                return True
    return False
