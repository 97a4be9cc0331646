"""Namespaces and processes for tests of the small servers: one room with lo and a few addresses, servers inside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import netlab
from netlab.kernel import netns

PACKAGES = str(Path(netlab.__file__).parents[1])
PATIENCE = 20.0  # seconds
V4, OTHER_V4, V6, OTHER_V6 = "10.99.0.1", "10.99.0.2", "fd99::1", "fd99::2"


@contextmanager
def room(name: str) -> Iterator[str]:
    """Give a namespace with two addresses of each IP version."""
    try:
        netns.create([name], lambda _: None)
        lines = ["link set lo up", *(f"addr add {address}/32 dev lo" for address in (V4, OTHER_V4))]
        lines += [f"addr add {address}/128 dev lo nodad" for address in (V6, OTHER_V6)]
        subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
        yield name
    finally:
        netns.remove([name])


@contextmanager
def program(
    name: str,
    module: str,
    *words: str,
    environment: Mapping[str, str] | None = None,
    lean: bool = False,
    before: Callable[[], None] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of netlab's modules inside a namespace; `lean` without site-packages, as far as it goes.

    `before` is called in the new process first.
    """
    argv = [sys.executable, *(["-S"] if lean else []), "-P", "-m", module, *words]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("NETLAB_")}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            env={**inherited, "PYTHONPATH": PACKAGES, **(environment or {})},
            stderr=subprocess.PIPE,
            preexec_fn=before,  # noqa: PLW1509
        )

    process = netns.call(name, start)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def open_socket(name: str, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
    """Return a socket of a namespace, with a timeout."""
    opened = netns.call(name, socket.socket, family, kind)
    opened.settimeout(PATIENCE)
    return opened


def connect(name: str, port: int, address: str = V4) -> socket.socket:
    """Return a connection as soon as somebody listens."""
    give_up = time.monotonic() + PATIENCE
    while True:
        opened = open_socket(name, family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            opened.connect((address, port))
        except ConnectionRefusedError:
            opened.close()
            assert time.monotonic() < give_up, f"nobody listens on {address} port {port}"
            time.sleep(0.002)
        else:
            return opened


def read_all(opened: socket.socket) -> bytes:
    """Return what comes until the other side ends."""
    found = b""
    while chunk := opened.recv(65536):
        found += chunk
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it never was so"
        time.sleep(0.002)
