"""Programs of a packet filter, started inside namespaces; and what to install where one is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from typing import IO, NamedTuple

from netlab import names
from netlab.errors import NotSupported
from netlab.kernel.residents import MARK
from netlab.paths import search_path

PACKAGES = {"iptables": "iptables", "ip6tables": "iptables", "nft": "nftables"}


class Call(NamedTuple):
    """One run of a tool inside a namespace."""

    netns: str
    argv: tuple[str, ...]
    stdin: str


def require(tools: Iterable[str]) -> None:
    """Raise NotSupported, saying how to get it, when the program of a tool is missing."""
    for tool in tools:
        program = "nft" if tool == "nft" else f"{tool}-restore"
        if shutil.which(program, path=search_path()) is None:
            raise NotSupported(f"the program {program}", "the packet filter of nodes", f"apt install {PACKAGES[tool]}")


def start(call: Call, said: IO[bytes] | None = None) -> subprocess.Popen[str]:
    """Start a tool in this thread's namespace. It bears the lab's mark: `down` ends it should netlab be killed.

    What it says goes into the file `said`, or else into a pipe: for whoever writes more than a pipe holds.
    """
    pipe = subprocess.PIPE
    owner = names.find_owner(call.netns)
    environment = {**os.environ, "PATH": search_path(), MARK: owner.lab if owner else ""}
    try:
        return subprocess.Popen(call.argv, stdin=pipe, stdout=pipe, stderr=said or pipe, text=True, env=environment)
    except FileNotFoundError:
        require([call.argv[0].split("-")[0]])
        raise
