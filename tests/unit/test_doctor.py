"""How doctor judges and shows what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.cli import doctor as command
from netlab.doctor import BASIC, WITHOUT_ROOT, Command, Report, find_commands, judge, judge_commands
from netlab.kernel.features import Feature, Kind

LONG = "a detail that goes on and on " * 8


def _feature(name: str, kind: Kind = Kind.LINK, *, available: bool = True, detail: str = "works") -> Feature:
    return Feature(name, kind, available, detail, "somebody", "sudo something")


def _basics() -> list[Feature]:
    return [_feature(name) for name in sorted(BASIC)]


def test_ready_means_that_the_smallest_lab_runs() -> None:
    assert judge([*_basics(), _feature("ipip", available=False)], rootless=False, untried="").ready


@pytest.mark.parametrize("lacking", sorted(BASIC))
def test_without_one_basic_nothing_is_ready(lacking: str) -> None:
    found = [_feature(name, available=name != lacking) for name in BASIC]
    report = judge(found, rootless=False, untried="")
    assert not report.ready
    assert command.verdict(report) == f"No lab can run here: {lacking} missing."


def test_what_was_not_tried_is_not_ready() -> None:
    report = judge([_feature("root", Kind.PRIVILEGE)], rootless=True, untried="forbidden")
    assert not report.ready
    assert report.without_root == WITHOUT_ROOT


def test_features_stand_in_the_order_of_their_kinds() -> None:
    found = [_feature("z", Kind.LIMIT), _feature("y", Kind.LINK), _feature("x", Kind.PRIVILEGE)]
    assert [feature.name for feature in judge(found, rootless=False, untried="").features] == ["x", "y", "z"]


def test_marks_are_words() -> None:
    assert command.mark(_feature("a")) == "ok"
    assert command.mark(_feature("a", available=False)) == "missing"
    assert command.mark(_feature("a", Kind.LIMIT, available=False)) == "low"


def test_table_fits_80_columns_and_explains_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    found = [*_basics(), _feature("n" * 60, available=False, detail=LONG), _feature("[bold]", Kind.PROGRAM)]
    command._print(Report(True, True, LONG, tuple(found), WITHOUT_ROOT))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "get it: sudo something" in out
    assert "needed by somebody" in " ".join(out.split())
    assert "[bold]" in out
    assert "\x1b" not in out
    assert out.rstrip().endswith("Labs can run here, without root.")


def test_help_documents_every_json_field() -> None:
    text = command.doctor_command.help or ""
    for name in (*Report.__dataclass_fields__, *Feature.__dataclass_fields__):
        assert name in text


OURS, THEIRS = Command("/venv/bin/netlab", True), Command("/usr/local/bin/netlab", False)


def test_own_command_first_is_right() -> None:
    feature = judge_commands([OURS, THEIRS])
    assert feature.available
    assert feature.detail == "/venv/bin/netlab; also /usr/local/bin/netlab (another project)"


@pytest.mark.parametrize(
    ("commands", "detail"),
    [
        ([], "not on PATH"),
        ([THEIRS], "/usr/local/bin/netlab is another project"),
        ([THEIRS, OURS], "/usr/local/bin/netlab is another project; also /venv/bin/netlab"),
    ],
)
def test_command_of_another_project_is_told(commands: list[Command], detail: str) -> None:
    feature = judge_commands(commands)
    assert not feature.available
    assert feature.detail == detail
    assert feature.how_to_get


def test_commands_on_the_search_path(tmp_path: Path) -> None:
    scripts = {
        "a": "#!/usr/bin/python3\nfrom netsim.cli import main\n",
        "b": "#!/venv/bin/python\nfrom netlab.cli.main import main\n",
        "c": "not executable",
    }
    for folder, text in scripts.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "netlab").write_text(text)
        (tmp_path / folder / "netlab").chmod(0o644 if folder == "c" else 0o755)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    search_path = ":".join(str(tmp_path / folder) for folder in ("missing", "c", "a", "b", "link"))
    assert find_commands(search_path) == [
        Command(str(tmp_path / "a" / "netlab"), False),
        Command(str(tmp_path / "b" / "netlab"), True),
    ]
