"""The commands as people type them: output, exit statuses, what a mistake says."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.found import labs
from netlab.kernel import netns
from netlab.lab import remove

pytestmark = pytest.mark.root

FILE = """\
name: cli
backend: vxlan
nodes: 2
pods: 2
checks:
- {from: p-1, to: p-2}
proxy: none
"""


def netlab(*argv: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "netlab", *argv],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "cli.yaml"
    path.write_text(FILE)
    yield path
    for name in labs():
        remove(name)


@pytest.fixture
def up(file: Path) -> Path:
    assert netlab("up", str(file)).returncode == 0
    return file


def test_the_day_of_a_lab(file: Path) -> None:
    first = netlab("up", str(file))
    assert first.returncode == 0
    assert "cli: up (2 nodes, 2 pods, vxlan) in " in first.stdout
    again = netlab("up", str(file))
    assert again.stdout == "cli: nothing to do (2 nodes, 2 pods, vxlan)\n"
    assert netlab("ls").stdout.splitlines()[1].split() == ["cli", "vxlan", "2", "2", str(file)]
    assert netlab("status").stdout.endswith("drift: none\n")
    assert netlab("check", "cli").returncode == 0
    down = netlab("down", str(file))
    assert down.stdout.startswith("cli: down in ")
    assert netlab("ls").stdout == "no lab is up\n"


@pytest.mark.usefixtures("up")
def test_json_everywhere_something_is_listed(file: Path) -> None:
    assert json.loads(netlab("up", str(file), "-o", "json").stdout)["changed"] is False
    assert json.loads(netlab("up", str(file), "--dry-run", "-o", "json").stdout)["commands"] == []
    assert json.loads(netlab("ls", "-o", "json").stdout) == [
        {"lab": "cli", "backend": "vxlan", "nodes": 2, "pods": 2, "file": str(file)}
    ]
    status = json.loads(netlab("status", "-o", "json").stdout)
    assert [pod["addresses"] for pod in status["pods"]] == [["10.244.1.2"], ["10.244.2.2"]]
    assert status["nodes"][0]["routes"] == ["10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"]
    shown = json.loads(netlab("inspect", "-o", "json").stdout)["namespaces"]
    assert {"kind": "bridge", "object": {"name": "cni0", "mtu": 1450, "mac": "0a:58:0a:f4:01:01", "up": True}} in shown[
        "nl-cli.n1"
    ]
    assert json.loads(netlab("check", "-o", "json").stdout)
    assert json.loads(netlab("schema").stdout)["properties"]["backend"]


@pytest.mark.usefixtures("up")
def test_drift_shows_in_status_and_up_repairs_it(file: Path) -> None:
    subprocess.run(["ip", "-n", "nl-cli.n1", "route", "del", "10.244.2.0/24"], check=True)
    status = netlab("status")
    assert status.returncode == 1
    assert "  n1: route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink: missing\n" in status.stdout
    check = netlab("check")
    assert check.returncode == 1
    repaired = netlab("up", str(file))
    assert "ip -n nl-cli.n1 route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto 110" in repaired.stdout
    assert netlab("status").returncode == 0


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(
    ("argv", "status"), [(["sh", "-c", "exit 7"], 7), (["true"], 0), (["no-such-program"], 127), (["/etc/passwd"], 126)]
)
def test_exec_passes_the_exit_status_on(argv: list[str], status: int) -> None:
    assert netlab("exec", "p-1", "--", *argv).returncode == status


@pytest.mark.usefixtures("up")
def test_exec_passes_input_signals_and_options_on() -> None:
    assert netlab("exec", "p-1", "cat", stdin="through\n").stdout == "through\n"
    assert netlab("exec", "p-1", "--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    assert netlab("exec", "p-1", "ip", "-4", "-o", "addr", "show", "eth0").stdout.split()[3] == "10.244.1.2/24"
    assert netlab("exec", "--lab", "cli", "n1", "--", "hostname").stdout == "n1\n"


@pytest.mark.usefixtures("up")
def test_shell_is_interactive_on_a_terminal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(sys.executable, [sys.executable, "-m", "netlab", "shell", "p-1"], {**os.environ, "SHELL": "/bin/sh"})
    os.write(terminal, b"tty && ip -br -4 a show eth0; exit 5\n")
    seen = b""
    while True:
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert b"/dev/pts/" in seen
    assert b"10.244.1.2/24" in seen


@pytest.mark.usefixtures("up")
def test_capture_shows_both_headers_and_writes_pcap(tmp_path: Path) -> None:
    pcap = tmp_path / "x.pcap"
    ping = [sys.executable, "-m", "netlab", "exec", "p-1", "--", "ping", "-c1", "10.244.2.2"]
    done = netlab("capture", "n1", "-w", str(pcap), "--", *ping)
    outer = next(line for line in done.stdout.splitlines() if "VXLAN VNI 1" in line)
    assert "172.18.0.2 > 172.18.0.3 ttl 64 len 134 UDP" in outer
    assert "10.244.1.2 > 10.244.2.2 ttl 63 len 84 ICMP echo request" in done.stdout
    assert pcap.read_bytes()[:4] == b"\x4d\x3c\xb2\xa1"  # nanosecond pcap, little endian


@pytest.mark.usefixtures("up")
def test_graph_in_three_formats(tmp_path: Path, file: Path) -> None:
    assert netlab("graph").stdout.startswith("<svg")
    assert "flowchart" in netlab("graph", "--mermaid").stdout
    assert netlab("graph", str(file), "--write", str(tmp_path / "lab.dot")).returncode == 0
    assert "graph" in (tmp_path / "lab.dot").read_text()


MISTAKES = [
    (["up", "no-such.yaml"], 2, "no-such.yaml"),
    (["up"], 2, "netlab init"),
    (["down", "nowhere"], 2, "there is no lab nowhere"),
    (["status", "nowhere"], 2, "labs here: cli"),
    (["exec", "p-3", "true"], 2, "lab cli has no pod, node or router 'p-3'"),
    (["exec", "web", "true"], 2, "has no pod, node or router"),
    (["stauts"], 2, "did you mean `netlab status`?"),
    (["up", "--frobnicate"], 2, "--frobnicate"),
    (["up", "FILE", "--backend", "vxlna"], 2, "did you mean 'vxlan'"),
    (["capture", "n1", "-i", "eth9", "--idle", "0.1"], 1, ", cni0, eth0, "),
    (["logs", "p-1"], 2, "it has no containers"),
    (["graph", "--write", "/nonexistent/x.svg"], 1, "cannot write /nonexistent/x.svg"),
]


@pytest.mark.parametrize(
    ("argv", "status", "said"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_explained(up: Path, argv: list[str], status: int, said: str, tmp_path: Path) -> None:
    done = netlab(*[str(up) if word == "FILE" else word for word in argv])
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert netlab("status").returncode == 0


def test_a_bad_file_changes_nothing(up: Path) -> None:
    up.write_text(FILE.replace("vxlan", "vxlna").replace("nodes: 2", "nodes: 3\nnoods: 1"))
    done = netlab("up", str(up))
    assert done.returncode == 2
    assert f"{up}:2:10: " in done.stderr
    assert "did you mean 'vxlan'" in done.stderr
    assert f"{up}:4:1: " in done.stderr
    assert netlab("status").returncode == 0
    assert netlab("down", str(up)).returncode == 0  # the file still names its lab


# Where the signal meets a callback of Python's import system, Python says so and goes on: nobody can catch that.
UNRAISABLE = re.compile(r"Exception ignored in.*?KeyboardInterrupt: *\n", re.DOTALL)
STARTED = "from netlab.cli.main import main; print('started', flush=True); main()"


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.7])
def test_ctrl_c_in_the_middle_is_no_harm(file: Path, delay: float) -> None:
    file.write_text("name: cli\nnodes: 20\npods: 200\n")
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", STARTED, "up", str(file)], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"  # until then it is Python that is interrupted
    time.sleep(delay)  # there is no condition to await: any moment must do
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in UNRAISABLE.sub("", said)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert netlab("up", str(file)).returncode == 0
    assert netlab("status").returncode == 0


def test_down_all(file: Path) -> None:
    for name in ("one", "two"):
        assert netlab("up", str(file), "--name", name).returncode == 0
    assert netlab("status").returncode == 2  # which one?
    assert netlab("down", "--all").stdout.count("down in") == 2
    assert netns.names("nl-") == []


def test_a_closed_pipe_is_no_error(up: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m netlab inspect | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_init_writes_a_topology_that_works(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "topology.yaml"
    assert netlab("init", str(target)).returncode == 0
    assert netlab("init", str(target)).returncode == 2
    assert netlab("up", str(target)).returncode == 0
    assert netlab("check").returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_NETLAB_COMPLETE" in netlab("completion", shell).stdout


def test_completion_knows_commands_and_members(up: Path) -> None:
    env = {"_NETLAB_COMPLETE": "bash_complete", "COMP_WORDS": "netlab exec p", "COMP_CWORD": "2"}
    assert {"plain,p-1", "plain,p-2"} <= set(netlab(env=env).stdout.split())
