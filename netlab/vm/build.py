"""One build of the guest image: runs the commands of `recipe`, and leaves a whole image or nothing.

`build` shows the steps in their order. They work in two folders: the image's, and a scratch folder in $TMPDIR that the
user ids of a build without root can reach, which a home directory may not allow.
"""

from __future__ import annotations

import importlib.util
import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from netlab import paths
from netlab.errors import NetlabError, NotSupported
from netlab.vm import apt, recipe
from netlab.vm.recipe import Recipe

Say = Callable[[str], None]

PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
SCRATCH_MB, IMAGE_MB = 1100, 250  # a build takes 700 and 130
PATIENCE = 20  # seconds that a program gets to remove its own files


def build(wanted: Recipe, folder: Path, log: IO[str], lock: int, say: Say) -> None:
    """Build an image in a folder. Raises NetlabError, NotSupported; leaves nothing in the scratch folder then.

    The programs hold `lock` too, a file descriptor: it is free when the last of them has ended.
    """
    scratch = Path(tempfile.gettempdir()) / f"netlab-image-{secrets.token_hex(4)}"
    _require_room(folder.parent, scratch.parent)
    (folder / "scratch").symlink_to(scratch)  # for `remove`, when this process is killed
    scratch.mkdir(mode=0o755)
    try:
        programs = _Programs(log, lock, scratch)
        say("fetching Python packages")
        programs.finish(programs.start(recipe.pip_argv(wanted, sys.executable, scratch / wanted.site)))
        _pack_extra(wanted, scratch)
        _bootstrap(wanted, folder / "root.sqfs", programs, say)
        for name in ("vmlinuz", "modules", "release"):
            shutil.move(scratch / "boot" / name, folder / name)
    finally:
        _remove_tree(scratch)
        (folder / "scratch").unlink()


def require_programs() -> None:
    """Raise NotSupported when this machine cannot build an image."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=paths.search_path())]
    if missing:
        packages = " ".join(sorted({PROGRAMS[name] for name in missing}))
        raise NotSupported(f"program {', '.join(missing)}", recipe.NEEDED_BY, f"apt install {packages}")
    if importlib.util.find_spec("pip") is None:
        hint = f"`{sys.executable} -m ensurepip`, or use the environment that scripts/setup makes"
        raise NotSupported(f"pip of {sys.executable}", recipe.NEEDED_BY, hint)


def _require_room(*folders: Path) -> None:
    needed: dict[int, tuple[Path, int]] = {}  # by device: the two folders may share one
    for folder, megabytes in zip(folders, (IMAGE_MB, SCRATCH_MB), strict=True):
        device = folder.stat().st_dev
        needed[device] = (folder, needed.get(device, (folder, 0))[1] + megabytes)
    for folder, megabytes in needed.values():
        free = shutil.disk_usage(folder).free // 1_000_000
        if free < megabytes:
            hint = "make room, or set NETLAB_CACHE and TMPDIR to folders with more"
            raise NetlabError(f"{folder} has {free} MB free, and {recipe.NEEDED_BY} needs {megabytes} MB", hint)


@dataclass(frozen=True, slots=True)
class _Programs:
    """Runs the programs of a build: what they say goes to the log, and they end when this process does."""

    log: IO[str]
    lock: int
    scratch: Path

    def start(
        self, argv: Sequence[str], stdin: IO[str] | None = None, *, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.Popen[str]:
        """Start a program, without input and with the log as its output where nothing else is given.

        It gets a session of its own: Ctrl-C reaches this process only, and this process ends the program.
        """
        return subprocess.Popen(
            [*recipe.bound(is_root=os.geteuid() == 0), *argv],
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or self.log,
            stderr=stderr or self.log,
            text=True,
            errors="replace",
            cwd=self.scratch,
            env=_environment(os.environ, self.scratch),
            pass_fds=[self.lock],
            start_new_session=True,
        )

    def finish(self, *programs: subprocess.Popen[str], say: Say | None = None) -> None:
        """Wait for programs; end them when this is interrupted. Raises NetlabError when one fails."""
        try:
            for line in programs[0].stderr or ():
                self.log.write(line)
                if say and (stage := recipe.find_stage(line)):
                    say(stage)
            statuses = [program.wait() for program in programs]
        finally:
            for program in programs:
                _end(program)
        if any(statuses):
            said = Path(self.log.name).read_text(errors="replace")
            raise recipe.failure(said, statuses, self.log.name)


def _end(program: subprocess.Popen[str]) -> None:
    """End a program and what it started, after time to remove what only it can: files of other user ids."""
    if program.poll() is not None:
        return
    if os.geteuid() != 0:
        with suppress(subprocess.TimeoutExpired):
            os.killpg(program.pid, signal.SIGTERM)
            program.wait(PATIENCE)
            return
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def _environment(inherited: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Return the programs' environment. SOURCE_DATE_EPOCH would date Python's sources anew: all would look changed."""
    kept = {name: value for name, value in inherited.items() if name != "SOURCE_DATE_EPOCH"}
    return {**kept, "PATH": paths.search_path(), "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}


def _pack_extra(wanted: Recipe, scratch: Path) -> None:
    """Write the archive of what netlab adds to Debian. Everything in it belongs to root, and all may read it."""
    site = scratch / wanted.site
    shutil.rmtree(site / "bin", ignore_errors=True)  # scripts that name this machine's python
    with tarfile.open(scratch / "extra.tar", "w") as archive:
        archive.add(site, wanted.site, filter=_for_all)
        for name, (mode, text) in recipe.files(wanted).items():
            member = tarfile.TarInfo(name)
            member.mode, member.size = mode, len(text.encode())
            archive.addfile(_for_all(member), io.BytesIO(text.encode()))


def _for_all(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode |= 0o755 if member.isdir() else 0o644
    return member


def _bootstrap(wanted: Recipe, target: Path, programs: _Programs, say: Say) -> None:
    """Make Debian's root and the disk in one go: the archive between them is never on a disk."""
    sources = _write_sources(wanted, programs.scratch / "debian.sources")
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    debian = recipe.bootstrap_argv(wanted, programs.scratch, sources, apt.options(dump))
    root = programs.start(debian, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    disk = programs.start(recipe.squash_argv(target), root.stdout)
    assert root.stdout is not None
    root.stdout.close()  # or mmdebstrap would not notice that mksquashfs has ended
    programs.finish(root, disk, say=say)


def _write_sources(wanted: Recipe, file: Path) -> str:
    """Write this machine's apt sources for the guest's suite; return the file's name, or "" when there are none."""
    etc = Path("/etc/apt")
    found = [
        etc / "sources.list",
        *sorted(etc.glob("sources.list.d/*.list")),
        *sorted(etc.glob("sources.list.d/*.sources")),
    ]
    sources = apt.debian_sources([(item.name, item.read_text()) for item in found if item.exists()], wanted.suite)
    if not sources and not apt.KEYRING.exists():
        raise NotSupported(str(apt.KEYRING), recipe.NEEDED_BY, "apt install debian-archive-keyring")
    file.write_text(sources)
    return str(file) if sources else ""


def remove(folder: Path) -> None:
    """Remove the folder of a build that did not come to its end, and what it has in the scratch folder."""
    with suppress(OSError):
        _remove_tree((folder / "scratch").readlink())
    _remove_tree(folder)


def _remove_tree(folder: Path) -> None:
    """Remove a folder. What a build without root leaves belongs to user ids that only mmdebstrap can take on."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and os.geteuid() != 0:
        subprocess.run(["mmdebstrap", "--unshare-helper", "rm", "-rf", str(folder)], capture_output=True, check=False)
