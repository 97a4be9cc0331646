"""The guest image of netlab's virtual machines: built once into the user's cache, found there afterwards.

CACHE/KEY/       an image: vmlinuz, root.sqfs, modules/lib/modules/RELEASE, release
CACHE/build.log  what the programs of the latest build said
CACHE/lock       held by a build, and by its programs
CACHE/new-*      a build: renamed when it is whole, removed by the next one when it never was
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import netlab
from netlab import paths
from netlab.errors import NetlabError, NotSupported, ProgramError
from netlab.vm.recipe import ARCHITECTURE, NEEDED_BY, Project, Recipe, key, pack_argv, read_project

KEPT = 2  # images: today's and the one before, for going back and forth between two branches


@dataclass(frozen=True, slots=True)
class Image:
    """An image on disk. `modules` holds lib/modules/RELEASE with the few modules that an initramfs needs."""

    folder: Path
    kernel: Path
    root: Path
    modules: Path
    release: str


def find_image() -> Image | None:
    """Return the image of today's recipe if it was built."""
    folder = cache_dir() / key(_recipe())
    try:
        release = (folder / "release").read_text().strip()
    except OSError:
        return None
    return Image(folder, folder / "vmlinuz", folder / "root.sqfs", folder / "modules", release)


def ensure_image(say: Callable[[str], None] = lambda line: None) -> Image:
    """Return the image of today's recipe; build it when it is missing. `say` gets a line for each stage.

    Raises NotSupported when this machine lacks something, NetlabError when the build fails.
    """
    image = find_image() or _build_image(say)
    os.utime(image.folder)  # the image that was used last is forgotten last
    return image


def cache_dir() -> Path:
    """Return the folder of the images. It may not exist yet."""
    return paths.cache_dir() / "vm"


def pack_tree(tree: Path, target: Path, exclude: Sequence[str]) -> None:
    """Pack a source tree as a squashfs disk. `exclude` holds names, or patterns of names, at any depth."""
    argv = pack_argv(tree, target, exclude)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise NotSupported("program mksquashfs", f"the disk of {tree}", "apt install squashfs-tools") from exc
    if done.returncode:
        raise ProgramError(argv, done.returncode, done.stderr or done.stdout, f"disk of {tree}")


@functools.cache
def _recipe() -> Recipe:
    """Return today's recipe. What netlab needs is written in its source tree, or in what its installer left."""
    file = Path(netlab.__file__).parent.parent / "pyproject.toml"
    if file.exists():
        import tomllib

        return Recipe(read_project(tomllib.loads(file.read_text())))
    from importlib.metadata import distribution

    found = distribution("container-netlab")
    points = tuple((point.group, point.name, point.value) for point in found.entry_points)
    return Recipe(Project(found.name, tuple(found.requires or ()), points))


def _build_image(say: Callable[[str], None]) -> Image:
    from netlab.vm import build  # only now: looking for an image must be instant

    if platform.machine() != ARCHITECTURE:
        raise NotSupported(f"an {ARCHITECTURE} processor", NEEDED_BY, f"use an {ARCHITECTURE} machine")
    build.require_programs()
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / "lock", say) as lock:
            if image := find_image():  # another process has built it meanwhile
                return image
            for remains in cache.glob("new-*"):
                build.remove(remains)
            target = cache / key(_recipe())
            folder = cache / f"new-{target.name}"
            folder.mkdir()
            try:
                with (cache / "build.log").open("w", buffering=1) as log:
                    say(f"building the virtual machines' image, once; the log is {log.name}")
                    build.build(_recipe(), folder, log, lock, say)
                folder.rename(target)
            finally:
                build.remove(folder)
            _forget_old(cache)
    except OSError as exc:
        where = exc.filename or cache
        raise NetlabError(f"cannot write {where}: {exc.strerror}", "set NETLAB_CACHE to another folder") from exc
    image = find_image()
    assert image is not None
    return image


@contextmanager
def _lock(file: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the right to build; wait while another process, or what is left of it, has it."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another netlab is building the image: waiting for it")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _forget_old(cache: Path) -> None:
    images = sorted((file.parent for file in cache.glob("*/release")), key=lambda folder: folder.stat().st_mtime)
    for folder in images[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
