"""`bench dns`: answers per second and how long one takes, of cluster DNS, dnsmasq and CoreDNS.

Each has the same 1,000 Services and is asked the same in turns, in one namespace by one process, which shares the
processors with it: with two of them each has its own. CoreDNS answers from a hosts file, not from an API server.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import dns.message

from netlab.dns.records import Service
from netlab.dns.zone_file import Cluster, write
from tests.bench import machine, sandbox
from tests.bench.measure import BenchError
from tests.bench.report import ratio, shuffled, spread, table

NETLAB, DNSMASQ, COREDNS = "netlab", "dnsmasq", "CoreDNS"
PORTS = {NETLAB: 5301, DNSMASQ: 5302, COREDNS: 5303}
SERVICES = 1000
WINDOW = 64  # queries under way
SINGLE = 2000  # queries one after the other
PATIENCE = 10.0  # seconds
FORMATS = {
    "A": "s{}.default.svc.cluster.local.",
    "NXDOMAIN": "s{}.default.svc.cluster.local.default.svc.cluster.local.",
}
TICK = 1 / os.sysconf("SC_CLK_TCK")

Found = dict[str, dict[str, list[list[float]]]]


class Figures(NamedTuple):
    """What one server did in one round: answers per second, microseconds."""

    rate: float
    cpu: float  # of the server, for each answer
    p50: float
    p99: float


def main(rounds: int, seed: int, seconds: int) -> None:
    """Measure what this machine has, and print a table for each kind of question."""
    print(f"# bench dns, seed {seed}\n{machine.describe()}\n")
    found: Found = sandbox.call(measure, rounds, seed, seconds)
    for case, servers in found.items():
        print(f"## {case}, {SERVICES} names, {WINDOW} queries under way\n")
        print(table(["", "answers/s", "netlab / it", "CPU us each", "p50 us alone", "p99 us alone"], _rows(servers)))
        print()
    missing = [name for name in PORTS if name not in next(iter(found.values()))]
    if missing:
        print(f"Not here: {', '.join(missing)}.")


def _rows(servers: Mapping[str, Sequence[Sequence[float]]]) -> Iterator[list[str]]:
    ours = {turn: row[0] for turn, row in enumerate(servers[NETLAB])}
    for name, rounds in servers.items():
        figures = [Figures(*row) for row in rounds]
        theirs = {turn: row.rate for turn, row in enumerate(figures)}
        yield [
            name,
            spread(row.rate for row in figures).text(0),
            "1" if name == NETLAB else ratio(ours, theirs).text(),
            spread(row.cpu for row in figures).text(1),
            spread(row.p50 for row in figures).text(0),
            spread(row.p99 for row in figures).text(0),
        ]


def measure(rounds: int, seed: int, seconds: int) -> Found:
    """Return the figures of every case, server and round: to be called in a sandbox."""
    found: Found = {case: {} for case in FORMATS}
    with tempfile.TemporaryDirectory(dir="/run") as name, ExitStack() as stack:
        servers = {
            server: stack.enter_context(_running(argv, PORTS[server])) for server, argv in _commands(Path(name)).items()
        }
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, {1})
        for turn in range(rounds):
            for server in shuffled(servers, seed, turn):
                for case, form in FORMATS.items():
                    machine.wait_for_calm()
                    figures = _ask(PORTS[server], servers[server], form, seconds)
                    found[case].setdefault(server, []).append(list(figures))
    return {case: {server: rows[server] for server in PORTS if server in rows} for case, rows in found.items()}


def _commands(folder: Path) -> dict[str, list[str]]:
    """Write each server's records and return the command lines of those that are here."""
    addresses = {f"s{n}": IPv4Address(f"10.96.{n // 250}.{n % 250 + 1}") for n in range(SERVICES)}
    services = tuple(Service("default", name, cluster_ips=(address,)) for name, address in addresses.items())
    write(folder / "zone.json", Cluster(services))
    lines = (f"{address} {name}.default.svc.cluster.local\n" for name, address in addresses.items())
    (folder / "hosts").write_text("".join(lines))
    corefile = f"cluster.local:{PORTS[COREDNS]} {{\n hosts {folder}/hosts {{\n ttl 5\n }}\n}}\n"
    (folder / "Corefile").write_text(corefile)
    (folder / "dnsmasq.conf").write_text("")
    mask = [f"--conf-file={folder}/dnsmasq.conf", "--no-resolv", "--no-hosts", f"--addn-hosts={folder}/hosts"]
    mask += ["--local=/cluster.local/", "--local-ttl=5", "--user=root", "--pid-file=", "--keep-in-foreground"]
    commands = {
        NETLAB: [sys.executable, "-P", "-m", "netlab.dns", f"{folder}/zone.json", "--port", str(PORTS[NETLAB])],
        DNSMASQ: ["dnsmasq", f"--port={PORTS[DNSMASQ]}", *mask],
        COREDNS: ["coredns", "-conf", f"{folder}/Corefile", "-quiet"],
    }
    return {name: argv for name, argv in commands.items() if shutil.which(argv[0])}


@contextmanager
def _running(argv: Sequence[str], port: int) -> Iterator[int]:
    """Run a server until the end, and give its process number once it answers."""
    environment = os.environ | {"GOMAXPROCS": "1", "PYTHONPATH": str(sandbox.ROOT)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            if (os.cpu_count() or 1) > 1:
                os.sched_setaffinity(process.pid, {0})
            _await(argv[0], port)
            yield process.pid
        finally:
            process.kill()


def _await(name: str, port: int) -> None:
    give_up = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        client.connect(("127.0.0.1", port))
        while time.monotonic() < give_up:
            try:
                client.send(_queries(FORMATS["A"])[0])
                client.recv(4096)
            except OSError:
                time.sleep(0.05)
            else:
                return
    raise BenchError(f"{name} does not answer")


def _queries(form: str) -> list[bytes]:
    return [dns.message.make_query(form.format(n), "A", id=n, use_edns=False).to_wire() for n in range(SERVICES)]


def _ask(port: int, pid: int, form: str, seconds: int) -> Figures:
    """Ask one server: first everything once, then as fast as it answers, then one by one."""
    queries = _queries(form)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        send, receive = client.send, client.recv
        try:
            for query in queries:
                send(query)
                receive(4096)
            for query in queries[:WINDOW]:
                send(query)
            answers, used, started = 0, _cpu(pid), time.perf_counter()
            while (passed := time.perf_counter() - started) < seconds:
                for query in queries:
                    receive(4096)
                    send(query)
                answers += len(queries)
            used = _cpu(pid) - used
            for _ in range(WINDOW):
                receive(4096)
            times = []
            for turn in range(SINGLE):
                asked = time.perf_counter()
                send(queries[turn % SERVICES])
                receive(4096)
                times.append(time.perf_counter() - asked)
        except TimeoutError as exc:
            raise BenchError(f"the server on port {port} left a query without an answer") from exc
    times.sort()
    p50, p99 = (times[int(len(times) * share)] * 1e6 for share in (0.5, 0.99))
    return Figures(answers / passed, used / answers * 1e6, p50, p99)


def _cpu(pid: int) -> float:
    """Return the processor time of a process, in seconds (proc_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK
