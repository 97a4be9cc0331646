"""The Vagrantfile as Vagrant reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("vagrant"), reason="vagrant is not installed; Debian 12 has it")
VAGRANTFILE = Path(__file__).parents[2] / "Vagrantfile"


def validate(vagrantfile: str, provider: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run `vagrant validate` on a text. Only the chosen provider's block is read, VirtualBox's where VBoxManage is."""
    (tmp_path / "Vagrantfile").write_text(vagrantfile)
    manage = tmp_path / "bin/VBoxManage"
    manage.parent.mkdir()
    manage.write_text("#!/bin/sh\necho 7.0.14r161095\n")
    manage.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VAGRANT_", "NETLAB_"))}
    environment = {
        **kept,
        "PATH": f"{manage.parent}:{os.environ['PATH']}",
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_CWD": str(tmp_path),
        "VAGRANT_DEFAULT_PROVIDER": provider,
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
    return subprocess.run(
        ["vagrant", "validate"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("provider", ["libvirt", "virtualbox"])
def test_vagrant_finds_the_vagrantfile_valid(provider: str, tmp_path: Path) -> None:
    done = validate(VAGRANTFILE.read_text(), provider, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("provider", ["libvirt", "virtualbox"])
def test_vagrant_finds_a_typo_in_each_providers_block(provider: str, tmp_path: Path) -> None:
    typo = VAGRANTFILE.read_text().replace(f"{provider}.memory = memory", f"{provider}.memmory = memory")
    done = validate(typo, provider, tmp_path)
    assert done.returncode != 0
    assert "memmory" in done.stdout + done.stderr


def test_vagrant_finds_a_typo_in_a_nodes_own_block(tmp_path: Path) -> None:
    text = VAGRANTFILE.read_text()
    assert validate(text.replace("node.vm.hostname", "node.vm.hostnaem"), "libvirt", tmp_path).returncode != 0
