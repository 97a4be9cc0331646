"""The guest's image: found when it is there; a build that cannot be says why and leaves nothing half."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from netlab.vm.boot import Boot
from netlab.vm.image import find_image

UP = [sys.executable, "-m", "netlab", "vm", "up"]
NOBODY_LISTENS = "http://127.0.0.1:9"


def test_an_image_that_is_there_is_found_and_whole(boot: Boot) -> None:
    assert find_image() == boot.image
    assert {file.name for file in boot.image.folder.iterdir()} == {"vmlinuz", "root.sqfs", "modules", "release"}


def _up_on_a_small_disk(size: str, folder: Path, then: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `netlab vm up` where a folder has only so much room, and a line of shell after it."""
    script = f'mount -t tmpfs -o size={size} none {folder} && "$@"; status=$?; {then}; exit $status'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *UP],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_too_little_room_is_told_before_anything_is_fetched(tmp_path: Path, runtime: Path) -> None:
    done = _up_on_a_small_disk("20m", tmp_path, "true", {"NETLAB_CACHE": str(tmp_path)})
    assert done.returncode == 1
    assert "MB free, and building the virtual machines' image needs" in done.stderr
    assert "hint: make room, or set NETLAB_CACHE" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_room_for_a_networks_own_files_is_told(tmp_path: Path, boot: Boot) -> None:
    done = _up_on_a_small_disk("3m", tmp_path, f"ls {tmp_path}/netlab/vm", {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_download_is_told_with_the_log(tmp_path: Path, runtime: Path) -> None:
    offline = {"PIP_INDEX_URL": NOBODY_LISTENS, "PIP_FIND_LINKS": "", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    remains = tmp_path / "vm/new-0123"
    remains.mkdir(parents=True)
    done = subprocess.run(
        UP, env={**os.environ, **offline, "NETLAB_CACHE": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    log = tmp_path / "vm/build.log"
    assert str(log) in done.stderr
    assert NOBODY_LISTENS.removeprefix("http://").partition(":")[0] in log.read_text()
    assert "Traceback" not in done.stderr
    assert sorted(file.name for file in log.parent.iterdir()) == ["build.log", "lock"]
