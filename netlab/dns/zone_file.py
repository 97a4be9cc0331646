"""The file through which the control plane tells the DNS server what there is: JSON Lines, replaced by rename.

The first line is the cluster's, each other one a Service's (an object) or a pod's ([namespace, address]). Lines that
were there before are neither made nor read again: a change among 10,000 Services costs what it changes, and a pass.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from netlab.dns.records import Endpoint, Kind, Pod, PodRecords, Port, Service
from netlab.dns.zone import Zone
from netlab.errors import NetlabError
from netlab.topology.addresses import Address
from netlab.topology.service import Protocol

FORMAT = 1
BROKEN = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)

T = TypeVar("T")


class ZoneFileError(NetlabError):
    """A zone file cannot be read; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a zone is made of; TTL in seconds."""

    services: Sequence[Service] = ()
    namespaces: Sequence[str] = ("default", "kube-system")
    pods: Sequence[Pod] = ()  # only for pod records that are verified
    domain: str = "cluster.local"
    ttl: int = 5
    pod_records: PodRecords = PodRecords.INSECURE

    def zone(self) -> Zone:
        """Return the zone. Raises ValueError for a domain that DNS cannot carry."""
        return Zone.of(
            self.services,
            self.pods,
            self.namespaces,
            domain=self.domain,
            ttl=self.ttl,
            pod_records=self.pod_records,
        )


class ZoneWriter:
    """Writes one zone file, again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[tuple[str, str], tuple[Service, str]] = {}
        self._text = ""

    def write(self, cluster: Cluster) -> bool:
        """Replace the file, unless it says that already; return whether it was replaced. Raises OSError."""
        text = "\n".join(self._render(cluster)) + "\n"
        if text == self._text:
            return False
        draft = self._path.with_name(f"{self._path.name}.new")
        draft.write_text(text)
        os.replace(draft, self._path)
        self._text = text
        return True

    def _render(self, cluster: Cluster) -> Iterator[str]:
        yield _json(
            {
                "format": FORMAT,
                "domain": cluster.domain,
                "ttl": cluster.ttl,
                "podRecords": cluster.pod_records,
                "namespaces": sorted(cluster.namespaces),
            }
        )
        known, self._lines = self._lines, {}
        for service in cluster.services:
            key = service.namespace, service.name
            old = known.get(key)
            line = old[1] if old and (old[0] is service or old[0] == service) else _service_line(service)
            self._lines[key] = service, line
            yield line
        for pod in cluster.pods:
            yield _json([pod.namespace, str(pod.address)])


class ZoneReader:
    """Reads one zone file when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._services: dict[str, Service] = {}

    def read_change(self) -> Zone | None:
        """Return the zone, None when the file is the one that was read last. Raises OSError and ZoneFileError."""
        status = os.stat(self._path)
        seen = status.st_ino, status.st_mtime_ns, status.st_size
        if seen == self._seen:
            return None
        self._seen = seen
        return self._read(self._path.read_text(errors="replace"))

    def _read(self, text: str) -> Zone:
        first, *others = text.splitlines() or [""]
        cluster = self._take(1, first, _cluster)
        known, self._services = self._services, {}
        services: list[Service] = []
        pods: list[Pod] = []
        try:
            for number, line in enumerate(others, 2):
                if line.startswith("["):
                    pods.append(self._take(number, line, _pod))
                    continue
                service = known.get(line) or self._take(number, line, _service)
                self._services[line] = service
                services.append(service)
            return Cluster(services, pods=pods, **cluster).zone()
        except ZoneFileError:
            self._services = known
            raise
        except ValueError as exc:
            raise ZoneFileError(f"zone file {self._path}, line 1: {exc}") from exc

    def _take(self, number: int, line: str, read: Callable[[Any], T]) -> T:
        try:
            return read(json.loads(line))
        except BROKEN as exc:
            why = f"{type(exc).__name__}: {exc}"
            raise ZoneFileError(
                f"zone file {self._path}, line {number}: not one of netlab's: {why}", "`netlab up` writes it again"
            ) from exc


def write(path: Path, cluster: Cluster) -> None:
    """Write a zone file once. Raises OSError."""
    ZoneWriter(path).write(cluster)


def read(path: Path) -> Zone:
    """Read a zone file once. Raises OSError and ZoneFileError."""
    zone = ZoneReader(path).read_change()
    assert zone is not None
    return zone


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _service_line(service: Service) -> str:
    return _json(
        {
            "namespace": service.namespace,
            "name": service.name,
            "kind": service.kind,
            "clusterIPs": [str(address) for address in service.cluster_ips],
            "externalName": service.external_name,
            "ports": [list(port) for port in service.ports],
            "endpoints": [
                [
                    [str(address) for address in endpoint.addresses],
                    endpoint.hostname,
                    endpoint.published,
                    [list(port) for port in endpoint.ports],
                ]
                for endpoint in service.endpoints
            ],
        }
    )


def _cluster(found: Any) -> dict[str, Any]:
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']}, and this netlab knows {FORMAT}")
    return {
        "domain": _text(found["domain"]),
        "ttl": int(found["ttl"]),
        "pod_records": PodRecords(found["podRecords"]),
        "namespaces": tuple(_text(namespace) for namespace in found["namespaces"]),
    }


def _service(found: Any) -> Service:
    return Service(
        _text(found["namespace"]),
        _text(found["name"]),
        Kind(found["kind"]),
        _addresses(found["clusterIPs"]),
        _text(found["externalName"]),
        _ports(found["ports"]),
        tuple(
            Endpoint(_addresses(addresses), _text(hostname), bool(published), _ports(ports))
            for addresses, hostname, published, ports in found["endpoints"]
        ),
    )


def _pod(found: Any) -> Pod:
    namespace, address = found
    return Pod(_text(namespace), ip_address(_text(address)))


def _addresses(found: Any) -> tuple[Address, ...]:
    return tuple(ip_address(_text(address)) for address in found)


def _ports(found: Any) -> tuple[Port, ...]:
    return tuple(Port(_text(name), Protocol(protocol), _number(number)) for name, protocol, number in found)


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{found!r} is no text")
    return found


def _number(found: Any) -> int:
    if not isinstance(found, int) or not 0 <= found <= 0xFFFF:
        raise ValueError(f"{found!r} is no port")
    return found
