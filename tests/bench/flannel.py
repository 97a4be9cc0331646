"""flannel's own C proxy, as a contender and as a peer: fetched as a Go module, compiled here, started in a namespace.

Nothing of flannel is kept in this repository. The Go client fetches the module and checks it; two of its files are
compiled with `flannel_main.c`, which does what flannel's Go code does around them; the program stays in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from netlab import paths
from netlab.kernel import netns
from netlab.tunnel.config import Config
from tests.bench.measure import BenchError

MODULE, VERSION = "github.com/flannel-io/flannel", "v0.26.1"
SUM = "h1:aAomTmAEomlFnpnPfYrHdyyYAwx63+7HOrfcwX+35RI="  # as in a go.sum
FOLDER, SOURCE = "pkg/backend/udp", "proxy_amd64.c"
MAIN = Path(__file__).with_name("flannel_main.c")
COMPILE = ("cc", "-O2", "-g", "-w")  # cgo's own options, without the warnings about somebody else's code
PATIENCE = 60.0  # seconds for the module to come


class MissingProxyError(BenchError):
    """The proxy cannot be had here; the message says why."""


def get_proxy() -> Path:
    """Return the compiled proxy, which is made the first time. Raises MissingProxyError."""
    recipe = hashlib.sha256(MAIN.read_bytes() + f"{SUM} {COMPILE}".encode()).hexdigest()[:8]
    program = paths.cache_dir() / "bench" / f"flannel-{VERSION}-{recipe}"
    if not program.exists():
        for tool in ("go", COMPILE[0]):
            if not shutil.which(tool):
                raise MissingProxyError(f"there is no `{tool}`, which flannel's C proxy is fetched and compiled with")
        try:
            program.parent.mkdir(parents=True, exist_ok=True)
            _compile(_fetch(), program)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise MissingProxyError(f"flannel's C proxy cannot be made: {exc}") from exc
    return program


def _fetch() -> Path:
    """Return the folder of flannel's source, which the Go client keeps."""
    with tempfile.TemporaryDirectory() as elsewhere:  # not inside anybody's module
        done = subprocess.run(
            ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"],
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode or "Dir" not in answer:
        why = answer.get("Error") or done.stderr.strip() or f"status {done.returncode}"
        raise MissingProxyError(f"`go mod download` of flannel: {why}")
    if answer["Sum"] != SUM:
        raise MissingProxyError(f"flannel {VERSION} is not what it was: {answer['Sum']} instead of {SUM}")
    return Path(answer["Dir"]) / FOLDER


def _compile(source: Path, program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        draft = Path(folder) / program.name
        argv = [*COMPILE, "-I", str(source), "-o", str(draft), str(MAIN), str(source / SOURCE)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingProxyError(f"flannel's C proxy does not compile: {done.stderr.strip()[-300:]}")
        os.replace(draft, program)


def arguments(config: Config) -> list[str]:
    """Return what the proxy is told on its command line, for a node that netlab's forwarder is told about so. Pure."""
    routes = [
        word
        for peer in config.peers
        for cidr in peer.pod_cidrs
        for word in (str(cidr.network_address), str(cidr.prefixlen), str(peer.address))
    ]
    return [config.device, str(config.mtu), str(config.source), str(config.local), str(config.port), *routes]


@contextmanager
def running(program: Path | str, places: Sequence[tuple[str, Config]]) -> Iterator[list[int]]:
    """Run the proxy in namespaces, on TUN devices that exist and that nobody else reads; yield the processes' ids."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for namespace, config in places:
            processes.append(netns.call(namespace, _start, [str(program), *arguments(config)]))
        for process in processes:
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise BenchError("flannel's C proxy does not start; see above")
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _start(argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
