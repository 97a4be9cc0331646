"""A kernel that lacks something: a seccomp filter answers as one without would (seccomp(2), filter mode)."""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

SOCKET = {"x86_64": 41, "aarch64": 198}
MACHINE = platform.machine()


class Refusal(NamedTuple):
    """A system call, what its arguments (by number) must be or must have bits of, and the errno that it gets."""

    call: int
    error: int
    equal: dict[int, int]
    bits: dict[int, int] = {}  # noqa: RUF012


NO_SCTP = Refusal(SOCKET[MACHINE], errno.EPROTONOSUPPORT, {2: socket.IPPROTO_SCTP})

# linux/filter.h, linux/seccomp.h, linux/prctl.h
LOAD, IF_EQUAL, IF_BITS, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
NUMBER, ARGUMENTS = 0, 16  # offsets in struct seccomp_data


def refusing(*refusals: Refusal) -> Callable[[], None]:
    """Return what a new process calls to have a kernel that refuses this, for good and for all that it starts."""
    instructions = b"".join(_block(refusal) for refusal in refusals) + _instruction(RETURN, ALLOW)
    code = ctypes.create_string_buffer(instructions)
    program = ctypes.create_string_buffer(struct.pack("HP", len(instructions) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)

    def install() -> None:
        assert code  # the program points at it
        for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)):
            if libc.prctl(*arguments) < 0:
                raise OSError(ctypes.get_errno(), "prctl")

    return install


def _block(refusal: Refusal) -> bytes:
    """Compare one thing after another, and jump behind the block where one is not as it must be."""
    tests = [(NUMBER, IF_EQUAL, refusal.call)]
    tests += [(ARGUMENTS + 8 * number, IF_EQUAL, value) for number, value in refusal.equal.items()]
    tests += [(ARGUMENTS + 8 * number, IF_BITS, value) for number, value in refusal.bits.items()]
    found = b""
    for number, (offset, comparison, value) in enumerate(tests, 1):
        behind = 2 * (len(tests) - number) + 1
        found += _instruction(LOAD, offset) + _instruction(comparison, value, otherwise=behind)
    return found + _instruction(RETURN, ERRNO | refusal.error)


def _instruction(code: int, operand: int, *, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, 0, otherwise, operand)
