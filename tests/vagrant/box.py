"""Builds the box of `recipe` into the cache, once: CACHE/KEY.box. Run in a cell that has the host's network.

python -m tests.vagrant.box TARGET SCRATCH          # TARGET is the file; SCRATCH the cell's folder
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from netlab.errors import NetlabError, ProgramError
from netlab.vm.apt import debian_sources
from netlab.vm.apt import options as apt_options
from tests.vagrant import recipe
from tests.vagrant.programs import run

ROOT = Path(__file__).parents[2]
LIMIT = 900.0  # seconds for the longest of the commands


def python_requirements() -> tuple[str, ...]:
    """Return what `scripts/setup test` would fetch with pip, from this repository's pyproject.toml."""
    return recipe.requirements(tomllib.loads((ROOT / "pyproject.toml").read_text()))


def build(target: Path, scratch: Path) -> None:
    """Build the box. Raises ProgramError where a download or a tool failed."""
    log = scratch / "logs/box.log"
    root, disk, image = scratch / "root", scratch / "disk", scratch / "box.img"
    extra = scratch / "extra"
    wheels = extra / recipe.WHEELS.lstrip("/")
    wheels.mkdir(parents=True)
    for path, (mode, text) in recipe.files(_vagrant_public_key(scratch)).items():
        _write(extra / path.lstrip("/"), mode, text)
    _fetch(log, wheels)
    _bootstrap(log, root, scratch)
    disk.write_bytes(recipe.partition_table())
    os.truncate(disk, recipe.DISK)
    for argv in recipe.disk_argvs(root, disk, image):
        run(argv, log, limit=LIMIT)
    _write(scratch / "metadata.json", 0o644, recipe.metadata())
    unfinished = scratch / target.name
    with tarfile.open(unfinished, "w") as archive:
        for file in (scratch / "metadata.json", image):
            archive.add(file, arcname=file.name)
    unfinished.rename(target)


def _fetch(log: Path, wheels: Path) -> None:
    """Fetch what pip would fetch in a node."""
    for argv in recipe.pip_argvs(sys.executable, wheels, python_requirements()):
        try:
            run(argv, log, limit=LIMIT)
        except ProgramError as exc:
            raise NetlabError(exc.message, "can pip on this machine download? (PIP_INDEX_URL, the network)") from exc


def _bootstrap(log: Path, root: Path, scratch: Path) -> None:
    """Make the root folder of Debian's packages, from this machine's own package sources."""
    sources = scratch / "debian.sources"
    sources.write_text(debian_sources(_apt_sources(), recipe.SUITE))
    settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    try:
        run(
            recipe.bootstrap_argv(root, scratch, str(sources) if sources.stat().st_size else "", apt_options(settings)),
            log,
            limit=LIMIT,
        )
    except ProgramError as exc:
        raise NetlabError(exc.message, "does `apt-get update` work on this machine? Is there space?") from exc


def _apt_sources() -> Iterator[tuple[str, str]]:
    for file in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        if file.is_file() and file.suffix in (".list", ".sources"):
            yield file.name, file.read_text()


def _vagrant_public_key(scratch: Path) -> str:
    """Return the public half of Vagrant's well-known key; Vagrant itself puts the private half into its home."""
    home = scratch / "vagrant-home"
    env = {**os.environ, "VAGRANT_HOME": str(home), "VAGRANT_CWD": str(scratch), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    log = scratch / "logs/vagrant-key.log"
    run(["vagrant", "box", "list"], log, limit=60, env=env)
    (private, *_) = [*home.glob("insecure_private_key"), *home.glob("insecure_private_keys/*rsa")]
    return run(["ssh-keygen", "-y", "-f", str(private)], log, limit=10)


def _write(file: Path, mode: int, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]), Path(sys.argv[2]))
    except NetlabError as exc:
        sys.exit(str(exc))
