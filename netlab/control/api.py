"""What the control plane answers to the `netlab` command: a JSON object for each request, and the verbs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from netlab.codec import from_json, to_json
from netlab.control import views
from netlab.control.plane import Plane
from netlab.control.protocol import ADDRESS
from netlab.control.resources import SHORT, WORKLOADS, Resource
from netlab.controllers.state import Key
from netlab.controllers.workloads import check
from netlab.errors import NetlabError, UsageError
from netlab.topology.pod import Pod, Workload
from netlab.topology.service import EndpointSlice, Namespace, Service

LONGEST_REQUEST = 64 * 2**20  # bytes
RESTARTED = "netlab/restartedAt"  # the label by which a restart makes a template another one

Request = Mapping[str, Any]
Answer = dict[str, Any]


class Api:
    """The socket that requests come to. Make it with `open`."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._verbs: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "apply": self._apply,
            "delete": self._delete,
            "scale": self._scale,
            "restart": self._restart,
            "get": self._get,
            "service": self._service,
            "state": self._state,
            "wait": self._wait,
        }
        self._server: asyncio.Server | None = None

    @classmethod
    async def open(cls, plane: Plane) -> Api:
        """Listen in this process's network namespace."""
        api = cls(plane)
        api._server = await asyncio.start_unix_server(api._serve, ADDRESS, limit=LONGEST_REQUEST)
        return api

    async def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with contextlib.suppress(ConnectionError):
            try:
                request = json.loads(await reader.readline())
                answer = await self._verbs[request["verb"]](request)
            except NetlabError as exc:
                answer = {"error": exc.args[0], "hint": getattr(exc, "hint", "")}
            except (ValueError, KeyError, TypeError) as exc:
                answer = {"error": f"the request is none of netlab's: {exc!r}", "hint": "is it another version?"}
            writer.write(json.dumps(answer).encode())
            await writer.drain()
        writer.close()

    # --- verbs that change -------------------------------------------------------------------------------------------

    async def _apply(self, request: Request) -> Answer:
        """Take objects, all or none: what can be refused is looked at first."""
        namespaces = [from_json(Namespace, value) for value in request.get("namespaces", ())]
        services = [from_json(Service, value) for value in request.get("services", ())]
        workloads = [from_json(Workload, value) for value in request.get("workloads", ())]
        slices = [from_json(EndpointSlice, value) for value in request.get("slices", ())]
        pods = [from_json(Pod, value) for value in request.get("pods", ())]
        self._refuse_declared([service.key for service in services])
        for workload in workloads:
            check(workload)
        for pod in pods:
            self._require_room(pod)
        self._plane.registry.set_services(services)
        journal = self._plane.registry.journal
        outcomes = [self._keep(space, f"namespace/{space.name}", journal.namespaces) for space in namespaces]
        outcomes += [self._keep(service, f"service/{service.name}", journal.services) for service in services]
        outcomes += [self._keep(workload, _name(workload), journal.workloads) for workload in workloads]
        for written in slices:
            outcomes.append(self._keep(written, f"endpointslice/{written.name}", journal.slices))
            self._plane.registry.set_slice(written)
        outcomes += [self._apply_pod(pod) for pod in pods]
        await self._plane.settled()
        return {"outcomes": outcomes}

    def _keep(self, value: Any, name: str, known: Mapping[Any, Any]) -> str:
        before = known.get(value.key)
        if before == value:
            return f"{name} unchanged"
        self._plane.registry.journal.put(value.key, value)
        return f"{name} {'created' if before is None else 'configured'}"

    def _require_room(self, pod: Pod) -> None:
        """Raise UsageError for a pod beside which there is another one of its name."""
        present = self._plane.find_pod(pod.name)
        if present is None:
            return
        if pod.name in self._plane.kubelet.terminating:
            raise UsageError(f"pod {pod.name} is still ending", "try again in a moment")
        if present.owner != pod.owner:
            raise UsageError(f"pod {pod.name} is there already, of {_owner(present)}", "give it another name")
        if present != replace(pod, node=pod.node or present.node):
            raise UsageError(f"pod {pod.name} is there already, and pods cannot be changed", "delete it first")

    def _apply_pod(self, pod: Pod) -> str:
        if self._plane.find_pod(pod.name):
            return f"pod/{pod.name} unchanged"
        self._plane.make_pod(pod)
        return f"pod/{pod.name} created"

    async def _delete(self, request: Request) -> Answer:
        """Delete objects, all or none."""
        wanted = [(Resource(key["kind"]), (key["namespace"], key["name"])) for key in request["keys"]]
        for kind, key in wanted:
            self._require_deletable(kind, key)
        self._require_empty(wanted)
        for kind, key in wanted:
            self._delete_one(kind, key)
        await self._plane.settled()
        return {"outcomes": [f"{SHORT[kind][0]}/{key[1]} deleted" for kind, key in wanted]}

    def _require_deletable(self, kind: Resource, key: Key) -> None:
        journal, name = self._plane.registry.journal, f"{SHORT[kind][0]}/{key[1]}"
        match kind:
            case Resource.SERVICES:
                self._refuse_declared([key])
                there = key in journal.services
            case Resource.ENDPOINT_SLICES:
                there = key in journal.slices
            case Resource.PODS:
                pod = self._plane.find_pod(key[1])
                there = pod is not None and pod.namespace == key[0]
                if pod and there and not _is_ours(pod):
                    raise UsageError(f"{name} is of {_owner(pod)}", "remove it there and run `netlab up`")
            case Resource.DEPLOYMENTS | Resource.STATEFUL_SETS | Resource.DAEMON_SETS:
                there = (WORKLOADS[kind], *key) in journal.workloads
            case Resource.NAMESPACES:
                there = (key[1],) in journal.namespaces
            case _:
                raise UsageError(f"{kind} cannot be deleted", "they follow from Services, pods and the topology file")
        if not there:
            raise UsageError(f"there is no {name} in namespace {key[0]}", f"`netlab get {kind} -A` lists them")

    def _require_empty(self, wanted: list[tuple[Resource, Key]]) -> None:
        """Raise UsageError for a namespace to be deleted that something stays in."""
        journal = self._plane.registry.journal
        there = [(Resource.SERVICES, key) for key in self._plane.registry.services]
        kinds = {workload: kind for kind, workload in WORKLOADS.items()}
        there += [(kinds[found.kind], (found.namespace, found.name)) for found in journal.workloads.values()]
        owners = {workload.owner for workload in journal.workloads.values()}
        pods = (pod for pod in self._plane.registry.topology.pods if pod.owner not in owners)
        there += [(Resource.PODS, (pod.namespace, pod.name)) for pod in pods]
        for name in (key[1] for kind, key in wanted if kind is Resource.NAMESPACES):
            left = next((one for one in there if one[1][0] == name and one not in wanted), None)
            if left:
                what = f"{SHORT[left[0]][0]}/{left[1][1]}"
                raise UsageError(f"namespace/{name} is not empty: {what} is in it", "delete that first")

    def _delete_one(self, kind: Resource, key: Key) -> None:
        journal = self._plane.registry.journal
        match kind:
            case Resource.SERVICES:
                journal.delete(Service, key)
                self._plane.registry.forget_service(key)
            case Resource.ENDPOINT_SLICES:
                journal.delete(EndpointSlice, key)
                self._plane.registry.forget_slice(key)
            case Resource.PODS:
                self._plane.delete_pod(key[1])
            case Resource.NAMESPACES:
                journal.delete(Namespace, key[1:])
            case _:
                journal.delete(Workload, (WORKLOADS[kind], *key))

    async def _scale(self, request: Request) -> Answer:
        workload = self._find_workload(request)
        if Resource(request["kind"]) is Resource.DAEMON_SETS:
            raise UsageError("a DaemonSet has one pod on every node", "it cannot be scaled")
        self._plane.registry.journal.put(workload.key, replace(workload, replicas=int(request["replicas"])))
        self._plane.wake()
        return {}

    async def _restart(self, request: Request) -> Answer:
        """Make a workload's template another one, so that its pods are replaced."""
        workload = self._find_workload(request)
        labels = dict(workload.template.labels) | {RESTARTED: str(time.time_ns())}
        template = replace(workload.template, labels=tuple(labels.items()))
        self._plane.registry.journal.put(workload.key, replace(workload, template=template))
        self._plane.wake()
        return {}

    def _find_workload(self, request: Request) -> Workload:
        kind = Resource(request["kind"])
        if kind not in WORKLOADS:
            raise UsageError(f"{kind} are no workloads", f"there are {', '.join(WORKLOADS)}")
        key = (WORKLOADS[kind].value, request["namespace"], request["name"])
        found = self._plane.registry.journal.workloads.get(key)
        if found is None:
            name = f"{SHORT[kind][0]}/{request['name']}"
            raise UsageError(
                f"there is no {name} in namespace {request['namespace']}", f"`netlab get {kind} -A` lists them"
            )
        return found

    def _refuse_declared(self, keys: list[Key]) -> None:
        """Raise UsageError for a Service that the topology file declares, or every cluster has."""
        declared = {service.key for service in self._plane.registry.topology.services}
        for key in keys:
            if key in declared:
                name = f"service {key[0]}/{key[1]}"
                raise UsageError(f"{name} is declared by the topology", "change the file and run `netlab up`")

    # --- verbs that look ---------------------------------------------------------------------------------------------

    async def _get(self, request: Request) -> Answer:
        items = views.items(self._plane, Resource(request["kind"]))
        namespace = request["namespace"]
        return {"items": [item for item in items if namespace in ("", item.get("namespace", namespace))]}

    async def _service(self, request: Request) -> Answer:
        """Return what is known of one Service, and the names of all."""
        answer: Answer = to_json(views.known(self._plane, (request["namespace"], request["name"])))
        return answer

    async def _state(self, _: Request) -> Answer:
        """Return everything that an object to be applied may be in conflict with."""
        registry = self._plane.registry
        return {
            "topology": to_json(registry.topology),
            "services": [to_json(service) for service in registry.services.values()],
            "allocations": [[list(key), to_json(found)] for key, found in registry.allocator.allocations.items()],
            "workloads": [to_json(workload) for workload in registry.journal.workloads.values()],
        }

    async def _wait(self, request: Request) -> Answer:
        """Wait until a workload is rolled out, and say how far it is."""
        deadline = time.monotonic() + float(request["timeout"])
        while True:
            done, status = views.rollout(self._plane, self._find_workload(request))
            left = deadline - time.monotonic()
            if done or left <= 0:
                return {"done": done, "status": status}
            await self._plane.next_turn(min(left, 1.0), wake=False)


def _name(workload: Workload) -> str:
    return f"{workload.kind.lower()}/{workload.name}"


def _is_ours(pod: Pod) -> bool:
    return pod.owner not in ("", "system")


def _owner(pod: Pod) -> str:
    return pod.owner or "the topology file"
