"""Every file of topologies/bad/ gives exactly the message beside it. `NETLAB_GOLDEN=write` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netlab.errors import TopologyError
from netlab.topology.load import SIZE_MAX, load

BAD = Path(__file__).parents[2] / "topologies" / "bad"
FILES = sorted(BAD.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_message_is_the_golden_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(TopologyError) as raised:
        load(path.name)
    golden = path.with_suffix(".expected")
    if os.environ.get("NETLAB_GOLDEN") == "write":
        golden.write_text(f"{raised.value}\n", encoding="utf-8")
    assert f"{raised.value}\n" == golden.read_text(encoding="utf-8")
    assert raised.value.exit_status == 2


def test_every_expected_message_has_its_file() -> None:
    assert {path.stem for path in BAD.glob("*.expected")} == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_problems_stand_in_file_order(path: Path) -> None:
    with pytest.raises(TopologyError) as raised:
        load(path)
    places = [(problem.line, problem.column) for problem in raised.value.problems]
    assert places == sorted(places)


def test_file_of_100_mb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as stream:
        stream.truncate(100 * 2**20)
    with pytest.raises(TopologyError, match="larger than 4 MiB"):
        load(path)


def test_endless_file_is_refused() -> None:
    with pytest.raises(TopologyError, match="larger than 4 MiB"):
        load("/dev/zero")


def test_file_at_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "padded.yaml"
    path.write_bytes(b"nodes: 1\n".ljust(SIZE_MAX, b"#"))
    assert len(load(path).nodes) == 1


def test_missing_file_names_a_similar_one(tmp_path: Path) -> None:
    (tmp_path / "vxlan-3.yaml").write_text("nodes: 3\n")
    with pytest.raises(TopologyError) as raised:
        load(tmp_path / "vxlan3.yaml")
    assert str(raised.value) == (
        f"{tmp_path}/vxlan3.yaml: there is no such file\n    did you mean {tmp_path}/vxlan-3.yaml?"
    )


def test_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("nodes: 3\n")
    with pytest.raises(TopologyError, match=r"is a folder, not a topology file\n    it holds a\.yaml"):
        load(tmp_path)


def test_path_that_cannot_be_says_why() -> None:
    with pytest.raises(TopologyError, match="cannot be read"):
        load("a\0b.yaml")
    with pytest.raises(TopologyError, match="cannot be read: Not a directory"):
        load("/dev/null/a.yaml")
