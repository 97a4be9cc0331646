"""Giving up every privilege, once the device and the sockets are open. Needs nothing but libc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

NOBODY = 65534
PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


def drop() -> None:
    """Become nobody without any capability, for good. Raises OSError.

    In a user namespace that knows one user only there is no other to become: the capabilities go all the same.
    """
    with contextlib.suppress(PermissionError):  # not root, or setgroups is denied there: user_namespaces(7)
        os.setgroups([])
    with contextlib.suppress(OSError):
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=II", CAPABILITY_VERSION_3, 0)  # this process
    nothing = bytes(24)  # effective, permitted, inheritable; twice 32 bits
    if libc.capset(header, nothing) < 0 or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot give up privileges: {os.strerror(code)}")
