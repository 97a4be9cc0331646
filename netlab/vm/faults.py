"""Faults on their way from a test to the switch: as messages."""

from __future__ import annotations

from netlab.bpf.classic import Instruction, Program
from netlab.vm.lines import Message
from netlab.vm.switch import Action, Fault


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
