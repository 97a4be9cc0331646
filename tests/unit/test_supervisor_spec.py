"""The files between the supervisor and its client, and its log files."""

from pathlib import Path

import pytest

from netlab.supervisor import log
from netlab.supervisor.spec import Report, Spec, Status, read_report, read_specs, write_report, write_specs

SPEC = Spec("web", "c", "nl-demo.web", ("sh", "-c", "ü"), (("A", "1"), ("B", "")), "/tmp", restart=False)
DAEMON = Spec("n1", "forwarder", "nl-demo.n1", ("netlab.tunnel",), (), "/", restart=True, config='{"ü": 1}\n')
STATUS = Status(SPEC, 4026531840, "ended", 12.5, 0, 0, 2, None, 9, "")


def test_specs_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "run" / "spec.json"
    write_specs(path, 7, [SPEC, DAEMON])
    assert read_specs(path) == (7, [SPEC, DAEMON])
    assert list(path.parent.iterdir()) == [path], "no draft is left"


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    report = Report(1, 2, 3, (STATUS,))
    write_report(tmp_path / "status.json", report)
    assert read_report(tmp_path / "status.json") == report


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"generation": 1, "processes": [{}]}', '{"processes": 1}'])
def test_a_broken_file_is_a_value_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    for read in (read_specs, read_report):
        with pytest.raises(ValueError):  # noqa: PT011 - the callers catch just that
            read(path)


def test_a_log_is_kept_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LIMIT", 10)
    path = tmp_path / "logs" / "web_c.log"
    for text in (b"first-1\n", b"first-2\n", b"second-1\n", b"second-2\n", b"third\n"):
        log.append(path, text)
    assert path.read_bytes() == b"third\n"
    assert log.older(path).read_bytes() == b"second-1\nsecond-2\n"
    assert len(list(path.parent.iterdir())) == 2


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    log.append(tmp_path / "logs" / "web_c.log", b"lost\n")
