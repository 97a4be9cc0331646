"""Every error that netlab raises on purpose, and the exit status that it ends with.

    NetlabError                     1  anything else that went wrong
    ├── UsageError                  2  the arguments name something that is not there
    ├── TopologyError               2  the file is wrong: carries every Problem at once
    │   └── ManifestError           2  so is a file of Kubernetes manifests
    ├── PlanError                   2  the topology is right but cannot be built
    ├── KernelError                 1  the kernel refused one operation
    │   └── NotSupported            3  this kernel or machine lacks a feature or a privilege
    ├── ProgramError                1  a program that netlab ran failed
    ├── StoreError                  1  the lab's state cannot be read or written
    │   └── LeaseConflict           1  two nodes want one podCIDR
    ├── VmError                     1  a virtual machine did not come up, or ended
    └── Busy                        1  another netlab works on the same lab

A message names the object, what failed and why; `hint` says what to do.
"""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Sequence
from dataclasses import dataclass


class NetlabError(Exception):
    """Anything that netlab reports to its user without a traceback."""

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(NetlabError):
    """An argument names a lab, pod, node or file that does not exist."""

    exit_status = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a topology file or manifest. `line` and `column` count from 1; 0 means the whole file."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        subject = f"{self.path}: " if self.path else ""
        hint = f"\n    {self.hint}" if self.hint else ""
        return f"{where}: {subject}{self.message}{hint}"


class TopologyError(NetlabError):
    """A topology file is wrong. Carries every problem that was found, in file order; shows the first of them."""

    exit_status = 2
    SHOWN = 50

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        lines = [str(problem) for problem in self.problems[: self.SHOWN]]
        if len(self.problems) > self.SHOWN:
            lines.append(f"... and {len(self.problems) - self.SHOWN} more problems")
        super().__init__("\n".join(lines))


class ManifestError(TopologyError):
    """A file of Kubernetes manifests is wrong, or does not fit the lab that it is for."""


class PlanError(NetlabError):
    """A correct topology asks for something that cannot be built."""

    exit_status = 2


class KernelError(NetlabError):
    """The kernel refused an operation. `errno` is positive; `reason` is the kernel's own sentence if it gave one."""

    def __init__(self, errno: int | None, operation: str, reason: str = "", hint: str = "") -> None:
        errno = errno or errno_names.EIO
        name = errno_names.errorcode.get(errno, str(errno))
        why = f"{os.strerror(errno)} ({name})" + (f": {reason}" if reason else "")
        super().__init__(f"{operation}: {why}", hint)
        self.errno = errno
        self.operation = operation
        self.reason = reason


class NotSupported(KernelError):
    """This kernel or machine lacks `feature`; the hint says how to get it."""

    exit_status = 3

    def __init__(self, feature: str, needed_by: str, hint: str) -> None:
        NetlabError.__init__(self, f"{feature} is not available here, and {needed_by} needs it", hint)
        self.errno = errno_names.EOPNOTSUPP
        self.operation = needed_by
        self.reason = ""
        self.feature = feature


class ProgramError(NetlabError):
    """A program that netlab ran ended with a failure."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str, subject: str = "") -> None:
        what = f"{subject}: " if subject else ""
        said = stderr.strip() or "it said nothing"
        super().__init__(f"{what}`{' '.join(argv)}` ended with status {status}: {said}")
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr


class StoreError(NetlabError):
    """The lab's state folder cannot be read or written."""


class LeaseConflict(StoreError):
    """Two nodes want the same podCIDR or public address."""


class VmError(NetlabError):
    """A virtual machine did not come up, or ended while it was needed."""

    def __init__(self, vm: str, why: str, hint: str = "") -> None:
        super().__init__(f"{vm}: {why}", hint)
        self.vm = vm
        self.why = why


class Busy(NetlabError):
    """Another netlab process is working on the same lab."""
