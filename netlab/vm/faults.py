"""Faults on their way from a test to the switch: filters compiled, values as messages."""

from __future__ import annotations

import shutil
import subprocess

from netlab import paths
from netlab.errors import NotSupported
from netlab.vm import bpf
from netlab.vm.bpf import Instruction, Program
from netlab.vm.lines import Message
from netlab.vm.switch import Action, Fault

ALONE = ("unshare", "--user", "--net")


def compile_filter(text: str) -> Program | None:
    """Compile a filter of pcap-filter(7); None for the empty one. Raises UsageError, NotSupported.

    tcpdump asks the resolver for names: it runs in a network namespace of its own, where nobody answers.
    """
    if not text:
        return None
    argv = bpf.argv(text)
    if not (program := shutil.which(argv[0], path=paths.search_path())):
        raise NotSupported(f"the program {argv[0]}", "a filter of frames", "apt install tcpdump")
    command = [program, *argv[1:]]
    done = subprocess.run([*ALONE, *command], capture_output=True, text=True, check=False)
    if done.stderr.startswith("unshare:"):  # this machine forbids it
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return bpf.compiled(text, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def pack(fault: Fault) -> Message:
    """Return a fault as a message."""
    return {
        "name": fault.name,
        "action": fault.action.value,
        "seconds": fault.seconds,
        "filter": fault.filter,
        "program": fault.program and [list(instruction) for instruction in fault.program.instructions],
        "from_port": fault.from_port,
        "to_port": fault.to_port,
        "first": fault.first,
        "every": fault.every,
    }


def unpack(message: Message) -> Fault:
    """Return the fault of a message."""
    fields = dict(message)
    rows = fields.pop("program")
    program = Program(tuple(Instruction(*row) for row in rows)) if rows else None
    return Fault(fields.pop("name"), Action(fields.pop("action")), program=program, **fields)
