"""Who the user is, what they may do and where their files are: decided from texts, on any machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netlab import paths
from netlab.errors import NetlabError
from netlab.kernel.rootless import Keeper, parse_record
from netlab.kernel.userns import CAP_NET_ADMIN, CAP_SYS_ADMIN, effective_capabilities, forbidding, remedy

WHOLE = "         0          0 4294967295\n"


@pytest.mark.parametrize(
    ("uid", "uid_map", "outer"),
    [
        (0, WHOLE, 0),
        (1000, WHOLE, 1000),
        (0, "         0       1000          1\n", 1000),  # what netlab makes
        (0, "         0          0          1\n", 0),
        (0, "         0     100000      65536\n", 0),  # root of a container is root
        (0, "         0       1000          1\n         1     100000      65536\n", 0),  # rootless podman
        (65534, "", 65534),
    ],
)
def test_outer_uid(uid: int, uid_map: str, outer: int) -> None:
    assert paths.outer_uid(uid, uid_map) == outer


@pytest.mark.parametrize(
    ("uid", "environ", "folder"),
    [
        (0, {"HOME": "/root", "XDG_STATE_HOME": "/x"}, "/var/lib/netlab"),
        (1000, {"HOME": "/home/a"}, "/home/a/.local/state/netlab"),
        (1000, {"HOME": "/home/a", "XDG_STATE_HOME": "/x"}, "/x/netlab"),
        (1000, {"HOME": "/home/a", "XDG_STATE_HOME": "x"}, "/home/a/.local/state/netlab"),
        (0, {"NETLAB_STATE": "/s"}, "/s"),
        (1000, {"NETLAB_STATE": "/s"}, "/s"),
        (0, {"NETLAB_STATE": ""}, "/var/lib/netlab"),
    ],
)
def test_state_folder(uid: int, environ: dict[str, str], folder: str) -> None:
    assert paths.choose_state_dir(uid, environ) == Path(folder)


def test_relative_state_folder_is_made_absolute() -> None:
    assert paths.choose_state_dir(1000, {"NETLAB_STATE": "s"}) == Path.cwd() / "s"


def test_user_without_a_home_is_told_what_to_set() -> None:
    with pytest.raises(NetlabError, match="set HOME or NETLAB_STATE"):
        paths.choose_state_dir(4_000_000_000, {})


def test_runtime_folder_is_the_users_own_or_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert paths.runtime_dir() == tmp_path / "netlab"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    uid = os.geteuid()
    assert paths.runtime_dir() in (Path(f"/run/user/{uid}/netlab"), Path(f"/tmp/netlab-{uid}"))


def test_runtime_folder_is_only_made_where_nobody_else_can_look(tmp_path: Path) -> None:
    folder = tmp_path / "netlab"
    paths.ensure_private(folder)
    paths.ensure_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(NetlabError, match="only you can use"):
        paths.ensure_private(folder)


def test_runtime_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(NetlabError, match="only you can use"):
        paths.ensure_private(tmp_path / "link")


def test_search_path_keeps_the_users_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/sbin:/mine")
    assert paths.search_path() == "/usr/sbin:/mine:/usr/local/sbin:/sbin"


def test_effective_capabilities() -> None:
    assert effective_capabilities("Name:\tx\nCapEff:\t0000000000000000\n") == frozenset()
    assert effective_capabilities("CapPrm:\tff\nCapEff:\t0000000000201000\n") == {CAP_NET_ADMIN, CAP_SYS_ADMIN}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"user.max_user_namespaces": "96365", "kernel.unprivileged_userns_clone": "1"}, []),
        ({"kernel.unprivileged_userns_clone": "0"}, ["kernel.unprivileged_userns_clone=1"]),
        ({"kernel.apparmor_restrict_unprivileged_userns": "1"}, ["kernel.apparmor_restrict_unprivileged_userns=0"]),
        (
            {"user.max_user_namespaces": "0", "kernel.unprivileged_userns_clone": "0"},
            ["user.max_user_namespaces=15000", "kernel.unprivileged_userns_clone=1"],
        ),
    ],
)
def test_remedy_names_the_settings(settings: dict[str, str], named: list[str]) -> None:
    said = remedy(forbidding(settings))
    assert said.count("sysctl -w") == len(named)
    assert all(f"`sudo sysctl -w {setting}`" in said for setting in named)
    assert "sudo" in said


@pytest.mark.parametrize("content", [b"", b"12", b"12 34 56", b"-1 2", b"a b", b"\0\0\xff", "\u0661 2".encode()])
def test_broken_keeper_record_is_no_record(content: bytes) -> None:
    assert parse_record(content) is None


def test_keeper_record() -> None:
    assert parse_record(b"12 345\n") == Keeper(12, 345)
