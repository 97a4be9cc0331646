"""Programs that are run, and where their output goes: each to a log of its own, kept when the test fails."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netlab.errors import NetlabError, ProgramError

SHOWN, WORDS = 30, 8  # of a failed program's output and command: lines, words


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, and what it said (output and errors in one)."""

    status: int
    said: str

    @property
    def last_line(self) -> str:
        """Return the last line that says something."""
        return next((line.strip() for line in reversed(self.said.splitlines()) if line.strip()), "")


def call(
    argv: Sequence[str],
    log: Path,
    *,
    limit: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Run a program, however it ends. Raises NetlabError when it takes more than `limit` seconds, or is not there."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab+") as output:
        start = output.tell()
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=limit,
                env=env,
                cwd=cwd,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise NetlabError(
                f"`{' '.join(argv)[:200]}` was not done after {limit:g} s", "is this machine very busy?"
            ) from exc
        except FileNotFoundError as exc:
            raise NetlabError(
                f"program {argv[0]} is not installed", "run scripts/test-vagrant: it installs it"
            ) from exc
        output.seek(start)
        return Ended(done.returncode, output.read().decode(errors="replace"))


def run(
    argv: Sequence[str],
    log: Path,
    *,
    limit: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program that must end well; return what it said. Raises ProgramError, NetlabError as `call` does."""
    ended = call(argv, log, limit=limit, env=env, cwd=cwd)
    if ended.status:
        shown = argv if len(argv) <= WORDS else [*argv[:WORDS], "..."]
        raise ProgramError(shown, ended.status, "\n".join(ended.said.splitlines()[-SHOWN:]))
    return ended.said
