"""The guest image of netlab's virtual machines: built once into the user's cache, found there afterwards.

    CACHE/KEY/       an image: vmlinuz, root.sqfs, modules/lib/modules/RELEASE, release
    CACHE/build.log  what the tools said in the latest build
    CACHE/lock       held by a build, and by its tools: a build that was killed is over when they are
    CACHE/new-*      a build: renamed when it is complete, removed by the next build when it never was

What goes into an image, and the commands that make it, are in `recipe`.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import io
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import netlab
from netlab import paths
from netlab.errors import NetlabError, NotSupported, ProgramError
from netlab.vm import recipe as recipes
from netlab.vm.recipe import Project, Recipe

Say = Callable[[str], None]

KEPT = 2  # images: today's and the one before, for going back and forth between two branches
SPACE = 1500  # MB
PROGRAMS = {"mmdebstrap": "mmdebstrap", "mksquashfs": "squashfs-tools", "dpkg-deb": "dpkg", "setpriv": "util-linux"}
NEEDED_BY = "building the virtual machines' image"
PATIENCE = 20  # seconds that a tool gets to remove its own files


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
    folder = _cache() / recipes.key(_recipe())
    try:
        release = (folder / "release").read_text().strip()
    except OSError:
        return None
    return Image(folder, folder / "vmlinuz", folder / "root.sqfs", folder / "modules", release)


def ensure_image(say: Say = lambda line: None) -> Image:
    """Return the image of today's recipe; build it when it is missing. `say` gets lines about what is going on.

    Raises NotSupported when this machine lacks something, NetlabError when the build fails.
    """
    if image := find_image():
        os.utime(image.folder)
        return image
    _require_programs()
    cache = _cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / "lock", say) as lock:
            if image := find_image():  # another process has built it meanwhile
                return image
            _remove_remains(cache)
            _build(_recipe(), cache, lock, say)
            _forget_oldest(cache)
    except OSError as exc:
        raise NetlabError(f"cannot use {exc.filename or cache}: {exc.strerror}", "set NETLAB_CACHE or TMPDIR") from exc
    image = find_image()
    assert image is not None
    return image


def pack_tree(tree: Path, target: Path, exclude: Sequence[str]) -> None:
    """Pack a source tree as a squashfs disk. `exclude` holds names, or patterns for names, at any depth."""
    argv = recipes.pack_argv(tree, target, exclude)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProgramError(argv, done.returncode, done.stderr or done.stdout, f"disk of {tree}")


def _cache() -> Path:
    return paths.cache_dir() / "vm"


@functools.cache
def _recipe() -> Recipe:
    """Return today's recipe: what netlab needs is in its source tree, or in what its installer left."""
    file = Path(netlab.__file__).parent.parent / "pyproject.toml"
    if file.exists():
        import tomllib

        return Recipe(recipes.read_project(tomllib.loads(file.read_text())))
    from importlib.metadata import distribution

    found = distribution("container-netlab")
    points = tuple((point.group, point.name, point.value) for point in found.entry_points)
    return Recipe(Project(found.name, tuple(found.requires or ()), points))


def _require_programs() -> None:
    if platform.machine() != recipes.ARCHITECTURE:
        hint = f"use an {recipes.ARCHITECTURE} machine"
        raise NotSupported(f"an {recipes.ARCHITECTURE} processor", NEEDED_BY, hint)
    missing = [name for name in PROGRAMS if not shutil.which(name, path=paths.search_path())]
    if missing:
        packages = sorted({PROGRAMS[name] for name in missing})
        raise NotSupported(f"program {', '.join(missing)}", NEEDED_BY, f"apt install {' '.join(packages)}")
    if importlib.util.find_spec("pip") is None:
        hint = f"`{sys.executable} -m ensurepip`, or use the environment that scripts/setup makes"
        raise NotSupported(f"pip of {sys.executable}", NEEDED_BY, hint)


@contextmanager
def _lock(file: Path, say: Say) -> Iterator[int]:
    """Hold the right to build; wait while another process has it."""
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


@dataclass(frozen=True, slots=True)
class _Tools:
    """Runs the programs of a build: what they say goes to the log, and they end when this process does."""

    log: IO[str]
    lock: int
    scratch: Path

    def start(self, argv: Sequence[str], **streams: int | IO[str] | None) -> subprocess.Popen[str]:
        """Start a program in a session of its own: Ctrl-C reaches this process only, and this process ends it."""
        chosen = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log, **streams}
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *argv],
            stdin=chosen["stdin"],
            stdout=chosen["stdout"],
            stderr=chosen["stderr"],
            text=True,
            cwd=self.scratch,
            env=_environment(self.scratch),
            pass_fds=[self.lock],
            start_new_session=True,
        )

    def finish(self, *programs: subprocess.Popen[str], say: Say | None = None) -> None:
        """Wait for programs. Raises NetlabError with the reason when one fails; ends them when this is interrupted."""
        try:
            for line in programs[0].stderr or ():
                self.log.write(line)
                if say and line.startswith("I: "):
                    say(line.removeprefix("I: ").strip())
            statuses = [program.wait() for program in programs]
        finally:
            for program in programs:
                _end(program)
        self.log.flush()
        if any(statuses):
            raise recipes.failure(Path(self.log.name).read_text(errors="replace"), self.log.name)


def _end(program: subprocess.Popen[str]) -> None:
    """End a program and all that it started, after time to remove its own files."""
    program.terminate()
    with suppress(subprocess.TimeoutExpired):
        program.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def _environment(scratch: Path) -> dict[str, str]:
    """Return the tools' environment. Without SOURCE_DATE_EPOCH, that would change the dates of Python's sources."""
    inherited = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    return {**inherited, "PATH": paths.search_path(), "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}


def _build(recipe: Recipe, cache: Path, lock: int, say: Say) -> None:
    """Build an image in a folder beside its place, and put it there when it is complete."""
    folder = Path(tempfile.mkdtemp(prefix="new-", dir=cache))
    scratch = Path(tempfile.gettempdir()) / f"netlab-image-{folder.name}"
    (folder / "scratch").symlink_to(scratch)  # for `_remove_remains`
    scratch.mkdir(mode=0o755)  # mmdebstrap's users without root must get through
    try:
        with (cache / "build.log").open("w") as log:
            _run_steps(recipe, folder, _Tools(log, lock, scratch), say)
        (folder / "scratch").unlink()
        folder.chmod(0o755)
        folder.rename(cache / recipes.key(recipe))
    finally:
        _remove(scratch)
        _remove(folder)


def _run_steps(recipe: Recipe, folder: Path, tools: _Tools, say: Say) -> None:
    scratch = tools.scratch
    say(f"building the virtual machines' image, once; the log is {tools.log.name}")
    say("fetching Python packages")
    tools.finish(tools.start(recipes.pip_argv(recipe, sys.executable, scratch / "extra" / recipe.site)))
    _pack_extra(recipe, scratch)
    debian = recipes.bootstrap_argv(recipe, scratch, _write_sources(recipe, scratch), _apt_options())
    root = tools.start(debian, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    disk = tools.start(recipes.squash_argv(folder / "root.sqfs"), stdin=root.stdout)
    assert root.stdout is not None
    root.stdout.close()  # so that mmdebstrap notices when mksquashfs ends
    tools.finish(root, disk, say=say)
    for name in ("vmlinuz", "modules", "release"):
        shutil.move(scratch / "boot" / name, folder / name)


def _pack_extra(recipe: Recipe, scratch: Path) -> None:
    """Write the archive of what netlab adds to Debian. Everything belongs to root and can be read by all."""
    import tarfile

    def for_all(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode |= 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(scratch / "extra.tar", "w") as archive:
        site = scratch / "extra" / recipe.site
        shutil.rmtree(site / "bin", ignore_errors=True)  # scripts that name this machine's python
        archive.add(site, recipe.site, filter=for_all)
        for name, (mode, text) in recipes.files(recipe).items():
            member = tarfile.TarInfo(name)
            member.mode, member.size = mode, len(text.encode())
            archive.addfile(for_all(member), io.BytesIO(text.encode()))


def _write_sources(recipe: Recipe, scratch: Path) -> str:
    """Write this machine's apt sources for the guest's suite to a file; return its name, or "" when there are none."""
    etc = Path("/etc/apt")
    found = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]
    texts = [(file.name, file.read_text()) for file in found if file.suffix in (".list", ".sources") and file.exists()]
    sources = recipes.debian_sources(texts, recipe.suite)
    if not sources:
        if not recipes.KEYRING.exists():
            raise NotSupported(str(recipes.KEYRING), NEEDED_BY, "apt install debian-archive-keyring")
        return ""
    file = scratch / "debian.sources"
    file.write_text(sources)
    return str(file)


def _apt_options() -> tuple[str, ...]:
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return recipes.apt_options(dump)


def _remove_remains(cache: Path) -> None:
    """Remove what builds that were killed have left. The lock says that none is going on."""
    for folder in cache.glob("new-*"):
        with suppress(FileNotFoundError):
            _remove((folder / "scratch").readlink())
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder; what a build without root has left there belongs to users that only mmdebstrap can become."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and os.geteuid() != 0:
        subprocess.run(["mmdebstrap", "--unshare-helper", "rm", "-rf", str(folder)], capture_output=True, check=False)


def _forget_oldest(cache: Path) -> None:
    images = sorted((file.parent for file in cache.glob("*/release")), key=lambda folder: folder.stat().st_mtime)
    for folder in images[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
