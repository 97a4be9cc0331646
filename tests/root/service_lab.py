"""A lab with Services for tests: apply values, and see from any member who answers and which client it saw."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from netlab.codec import to_json
from netlab.control.protocol import ask
from netlab.kernel import netns
from netlab.lab import Lab
from netlab.topology.pod import Pod, Workload
from netlab.topology.service import EndpointSlice, Protocol, Service

REFUSED, DROPPED, CLOSED = "refused", "dropped", "closed without a word"
TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
PATIENCE = 5.0  # seconds for an answer that is expected
SILENCE = 0.4  # seconds after which none comes: a dropped packet is not seen otherwise


@dataclass(frozen=True)
class Reply:
    """Who answered, and the client address that it saw."""

    pod: str
    client: str


class ServiceLab:
    """A lab that is up."""

    def __init__(self, lab: Lab, mode: str = "iptables") -> None:
        self._lab = lab
        self.name = lab.name
        self.mode = mode

    @property
    def lab(self) -> Lab:
        """Return the lab with the pods that it has now."""
        record = self._lab.folder.find_record()
        assert record is not None
        self._lab.topology = record.topology
        return self._lab

    def apply(self, *values: Service | Workload | EndpointSlice | Pod) -> list[str]:
        """Apply objects and return what became of each."""
        kinds: dict[str, list[Any]] = {"services": [], "workloads": [], "slices": [], "pods": []}
        names = {Service: "services", Workload: "workloads", EndpointSlice: "slices", Pod: "pods"}
        for value in values:
            kinds[names[type(value)]].append(to_json(value))
        outcomes: list[str] = ask(self.name, {"verb": "apply", **kinds})["outcomes"]
        return outcomes

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete an object."""
        ask(self.name, {"verb": "delete", "keys": [{"kind": kind, "namespace": namespace, "name": name}]})

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """Return an object as `netlab get -o json` has it."""
        items = ask(self.name, {"verb": "get", "kind": kind, "namespace": namespace})["items"]
        found: dict[str, Any] = next(item for item in items if item["name"] == name)
        return found

    def wait_for_endpoints(self, service: str, number: int) -> None:
        """Wait until so many endpoints are ready, and every node knows."""
        deadline = time.monotonic() + 20.0
        while True:
            self.apply()  # answers when all that is known is written
            subsets = self.get("endpoints", service)["subsets"]
            if sum(subset["ready"] for subset in subsets) == number:
                self.apply()
                return
            assert time.monotonic() < deadline, subsets

    def cluster_ip(self, service: str, version: int = 4) -> str:
        """Return a Service's address."""
        addresses = self.get("services", service)["cluster-ip"].split(",")
        return next(str(address) for address in addresses if (":" in address) == (version == 6))

    def ask(
        self, member: str, address: str, port: int = 80, protocol: Protocol = TCP, *, patience: float = PATIENCE
    ) -> Reply | str:
        """Ask who is there from a pod, node or machine: the reply, REFUSED, DROPPED or CLOSED."""
        return netns.call(self.lab.netns(member), _ask, address, port, protocol, patience)

    def ask_often(
        self, member: str, address: str, port: int = 80, protocol: Protocol = TCP, *, times: int = 24
    ) -> set[Reply | str]:
        """Ask many times, each on a connection of its own, and return what came."""
        return netns.call(self.lab.netns(member), _ask_often, address, port, protocol, times)


def _ask_often(address: str, port: int, protocol: Protocol, times: int) -> set[Reply | str]:
    found: set[Reply | str] = set()
    while times and DROPPED not in found:  # one tells enough, and takes its time
        found.add(_ask(address, port, protocol, PATIENCE))
        times -= 1
    return found


def _ask(address: str, port: int, protocol: Protocol, patience: float) -> Reply | str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol is UDP else socket.SOCK_STREAM
    with socket.socket(family, kind, socket.IPPROTO_SCTP if protocol is SCTP else 0) as client:
        client.settimeout(patience)
        try:
            client.connect((address, port))
            client.sendall(b"hello\n" if protocol is UDP else b"GET / HTTP/1.0\r\n\r\n")
            said = client.recv(4096)
            while protocol is not UDP and (more := client.recv(4096)):
                said += more
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return DROPPED
    if not said:
        return CLOSED
    found = json.loads(said[said.index(b"{") :].splitlines()[0] if protocol is UDP else said[said.index(b"{") :])
    return Reply(found["pod"], found["client"])


@contextmanager
def running(text: str, name: str, mode: str = "iptables") -> Iterator[ServiceLab]:
    """Bring a lab up and take it away."""
    with Lab.loads(text, name=name) as lab:
        yield ServiceLab(lab, mode)
