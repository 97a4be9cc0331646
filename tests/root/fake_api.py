"""As much of a Kubernetes API server as CoreDNS asks: four kinds of objects, listed, and watched without a change.

The objects are made from what netlab's own DNS answers from, so that both servers know the same cluster.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from netlab.dns.records import Endpoint, Kind, Pod, Port, Service
from netlab.dns.zone_file import Cluster
from netlab.kernel import netns

KINDS = {  # by path: API version and kind
    "/api/v1/namespaces": ("v1", "Namespace"),
    "/api/v1/services": ("v1", "Service"),
    "/api/v1/pods": ("v1", "Pod"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
}
INITIAL_END = {"k8s.io/initial-events-end": "true"}  # the annotation of the bookmark behind a watch's first objects
VERSION = "1"  # of every object: nothing changes

Object = dict[str, Any]


class _Api(ThreadingHTTPServer):
    """A server with its objects by path; watches go on until `ended`."""

    def __init__(self, objects: Mapping[str, Sequence[Object]]) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.objects = objects
        self.ended = threading.Event()


class _Requests(BaseHTTPRequestHandler):
    """Answers by HTTP/1.0: the end of a connection is the end of the answer."""

    server: _Api

    def do_GET(self) -> None:
        """Answer a list or a watch."""
        url = urlsplit(self.path)
        asked = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if url.path not in KINDS:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        version, kind = KINDS[url.path]
        objects = self.server.objects[url.path]
        if asked.get("watch") not in ("true", "1"):
            found = {"apiVersion": version, "kind": f"{kind}List", "metadata": {"resourceVersion": VERSION}}
            self._write({**found, "items": objects})
            return
        if asked.get("sendInitialEvents") == "true":
            for one in objects:
                self._write({"type": "ADDED", "object": one})
            mark = {"metadata": {"resourceVersion": VERSION, "annotations": INITIAL_END}}
            self._write({"type": "BOOKMARK", "object": {"apiVersion": version, "kind": kind, **mark}})
        self.server.ended.wait()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _write(self, value: Object) -> None:
        self.wfile.write(json.dumps(value).encode() + b"\n")


@contextmanager
def serving(name: str, cluster: Cluster) -> Iterator[str]:
    """Serve a cluster's objects on a namespace's loopback, and give the URL."""
    server = netns.call(name, _Api, objects_of(cluster))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def objects_of(cluster: Cluster) -> dict[str, list[Object]]:
    """Return a cluster's objects by the path that lists them."""
    found: dict[str, list[Object]] = {
        "/api/v1/namespaces": [_object("v1", "Namespace", name, "") for name in cluster.namespaces],
        "/api/v1/services": [_service(service) for service in cluster.services],
        "/api/v1/pods": [_pod(number, pod) for number, pod in enumerate(cluster.pods)],
    }
    slices = [one for service in cluster.services for one in _slices(service)]
    return {**found, "/apis/discovery.k8s.io/v1/endpointslices": slices}


def _object(version: str, kind: str, name: str, namespace: str, **parts: object) -> Object:
    metadata = {"name": name, "namespace": namespace, "uid": f"{kind}-{namespace}-{name}", "resourceVersion": VERSION}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}


def _service(service: Service) -> Object:
    addresses = [str(address) for address in service.cluster_ips]
    match service.kind:
        case Kind.EXTERNAL_NAME:
            spec: Object = {"type": "ExternalName", "externalName": service.external_name}
        case Kind.HEADLESS:
            spec = {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}
        case _:
            spec = {"type": "ClusterIP", "clusterIP": addresses[0], "clusterIPs": addresses}
    spec["ports"] = [{"name": port.name, "protocol": port.protocol, "port": port.number} for port in service.ports]
    return _object("v1", "Service", service.name, service.namespace, spec=spec)


def _slices(service: Service) -> Iterator[Object]:
    """Yield a Service's slices as its controller cuts them: one for each IP version and list of ports."""
    groups: dict[tuple[int, tuple[Port, ...]], list[Object]] = {}
    for endpoint in service.endpoints:
        for version, one in _endpoints(endpoint):
            groups.setdefault((version, endpoint.ports), []).append(one)
    for number, ((version, ports), endpoints) in enumerate(groups.items()):
        found = _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            f"{service.name}-{number}",
            service.namespace,
            addressType=f"IPv{version}",
            endpoints=endpoints,
            ports=[{"name": port.name, "protocol": port.protocol, "port": port.number} for port in ports],
        )
        found["metadata"]["labels"] = {"kubernetes.io/service-name": service.name}
        yield found


def _endpoints(endpoint: Endpoint) -> Iterable[tuple[int, Object]]:
    for address in endpoint.addresses:
        one: Object = {"addresses": [str(address)], "conditions": {"ready": endpoint.published}}
        if endpoint.hostname:
            one["hostname"] = endpoint.hostname
        yield address.version, one


def _pod(number: int, pod: Pod) -> Object:
    status = {"phase": "Running", "podIP": str(pod.address), "podIPs": [{"ip": str(pod.address)}]}
    return _object("v1", "Pod", f"pod-{number}", pod.namespace, status=status)
