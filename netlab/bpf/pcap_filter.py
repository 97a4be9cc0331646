"""Filters of pcap-filter(7): compiled by tcpdump, made ready for the kernel, and where one that is wrong fails.

tcpdump says that there is a syntax error but not where. A filter is wrong from the word on with which what was said so
far cannot be completed any more: so the longest beginning is looked for that some ENDINGS still complete.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

from netlab import paths
from netlab.bpf import classic
from netlab.bpf.classic import Instruction, Program
from netlab.errors import NotSupported, UsageError

ALONE = ("unshare", "--user", "--net")
HINT = "its language is in pcap-filter(7)"
TOKEN = re.compile(r"[A-Za-z0-9_\\:.][\w\\:./-]*|\S")
CONSTANT = "expression rejects all packets"  # not of syntax, and the rest may change it
# What a beginning may lack: a word, then after the brackets that are open perhaps a relation.
WORDS = (
    *("", "ip", "1", "80", "10.0.0.1", "host 10.0.0.1", "port 80", "10.0.0.0/8", "255.0.0.0", "02:00:00:00:00:01"),
    *("= 0", "::1", "1-2", "dst 10.0.0.1", "src 10.0.0.1", "proto 6"),
)
RELATIONS = ("", "= 0")
# One process tries them all: exit status 0 when one compiles.
TRIES = f"""
for filter; do
  said=$("$TCPDUMP" -ddd -y EN10MB -- "$filter" 2>&1) && exit 0
  case $said in *"{CONSTANT}"*) exit 0 ;; esac
done
exit 1
"""

LOAD, EQUAL, JUMP, RETURN = 0x20, 0x15, 0x05, 0x06
HARDWARE_TYPE = 0xFFFF_F000 + 28  # SKF_AD_OFF + SKF_AD_HATYPE in linux/filter.h: of the device, ARPHRD_...
FRAMED = (1, 772)  # linux/if_arp.h: ARPHRD_ETHER, ARPHRD_LOOPBACK
REFUSE = Instruction(RETURN, 0, 0, 0)
EVERYTHING = 262144  # bytes of a packet to keep


def compile_filter(text: str) -> Program | None:
    """Compile a filter for Ethernet frames; None for the empty one.

    Raises UsageError, with the place where the filter is wrong, and NotSupported.
    """
    if not text.strip():
        return None
    done = _compile(text, "EN10MB")
    if done.returncode:
        raise _refusal(text, done.stderr)
    return classic.compiled(text, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def kernel_filter(text: str) -> list[Instruction]:
    """Compile a filter for packet sockets that get frames and bare IP packets; nothing for the empty one.

    Which of two programs runs depends on the device. Raises UsageError and NotSupported.
    """
    if not text.strip():
        return []
    framed, bare = _compile(text, "EN10MB"), _compile(text, "RAW")
    if framed.returncode:
        raise _refusal(text, framed.stderr)
    # What asks for something that only a frame has lets no bare packet pass.
    return by_device(classic.listed(framed.stdout), [REFUSE] if bare.returncode else classic.listed(bare.stdout))


def packet_filter(text: str) -> tuple[Instruction, ...]:
    """Compile a filter for packets that begin with their IP header. Raises UsageError and NotSupported."""
    done = _compile(text, "RAW")
    if done.returncode:
        raise _refusal(text, done.stderr)
    return classic.compiled(text, status=done.returncode, stdout=done.stdout, stderr=done.stderr).instructions


def _compile(text: str, link: str) -> subprocess.CompletedProcess[str]:
    """Have a filter compiled. `link`: what packets begin with, in tcpdump's words."""
    return _alone([_tcpdump(), *classic.argv(text, link=link)[1:]])


def _refusal(text: str, said: str) -> UsageError:
    words = said.strip().removeprefix("tcpdump: ").removeprefix("can't parse filter expression: ")
    place = "" if CONSTANT in said else f" {_place(text)}"
    return UsageError(f"filter {text!r}: {words or 'tcpdump refuses it'}{place}", HINT)


def by_device(framed: Sequence[Instruction], bare: Sequence[Instruction]) -> list[Instruction]:
    """Return a program that runs one of two: jumps count from where they stand, so both stay as they are."""
    head = [
        Instruction(LOAD, 0, 0, HARDWARE_TYPE),
        *(Instruction(EQUAL, len(FRAMED) - place, 0, kind) for place, kind in enumerate(FRAMED)),
        Instruction(JUMP, 0, 0, len(framed)),
    ]
    return [_whole(one) for one in (*head, *framed, *bare)]


def _whole(one: Instruction) -> Instruction:
    return one._replace(k=EVERYTHING) if one.code == RETURN and one.k else one


# --- where it is wrong -----------------------------------------------------------------------------------------------


def _place(text: str) -> str:
    tokens = list(TOKEN.finditer(text))
    wrong = first_wrong([text[: token.end()] for token in tokens], _is_completable)
    if wrong is None:
        return "at its end: something is missing there"
    return f"at {tokens[wrong].group()!r}, character {tokens[wrong].start() + 1}"


def first_wrong(beginnings: Sequence[str], is_completable: Callable[[str], bool]) -> int | None:
    """Return the index of the first beginning that nothing completes; None when there is none.

    Each begins with the one before, so that after a wrong one all are: the first is found by bisection.
    """
    good, bad = -1, len(beginnings)
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_completable(beginnings[middle]):
            good = middle
        else:
            bad = middle
    return bad if bad < len(beginnings) else None


def endings(beginning: str) -> Iterator[str]:
    """Yield filters that begin so and have every bracket closed."""
    closing = ""
    for letter in beginning:
        if letter in "([":
            closing = (")" if letter == "(" else "]") + closing
        elif closing and letter == closing[0]:
            closing = closing[1:]
    for relation in RELATIONS:
        for word in WORDS:
            yield f"{beginning} {word}{closing} {relation}"


def _is_completable(beginning: str) -> bool:
    return not _alone(["sh", "-c", TRIES, "sh", *endings(beginning)]).returncode


# --- tcpdump ---------------------------------------------------------------------------------------------------------


def _tcpdump() -> str:
    if program := shutil.which("tcpdump", path=paths.search_path()):
        return program
    raise NotSupported("the program tcpdump", "a filter of frames", "apt install tcpdump")


def _alone(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run tcpdump where nobody answers what it asks the resolver: in a network namespace of its own."""
    environment = {"TCPDUMP": _tcpdump(), "PATH": paths.search_path(), "LC_ALL": "C"}
    done = subprocess.run([*ALONE, *command], capture_output=True, text=True, check=False, env=environment)
    if done.stderr.startswith("unshare:"):  # this machine forbids it
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done
