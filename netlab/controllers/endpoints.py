"""Which pods are behind which Service, as pods, Services and EndpointSlices come and go.

A change costs what it touches: a pod is compared only with Services that select one of its labels, a Service only with
pods that carry one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from netlab.controllers.backends import Backend, in_order, pod_backend, slice_backends
from netlab.controllers.state import Key, PodState
from netlab.topology.service import EndpointSlice, Service, ServiceType

Label = tuple[str, str, str]  # namespace, label, value


class Endpoints:
    """The cluster's Services, pods and written EndpointSlices, and which belong together."""

    def __init__(self) -> None:
        self._services: dict[Key, Service] = {}
        self._selecting: dict[Label, dict[Key, None]] = {}  # Services, by one label of their selectors
        self._label: dict[Key, Label] = {}  # which one
        self._pods: dict[Key, PodState] = {}
        self._labelled: dict[Label, dict[Key, None]] = {}  # pods, by each of their labels
        self._members: dict[Key, set[Key]] = {}  # a Service's pods
        self._slices: dict[Key, EndpointSlice] = {}
        self._written: dict[Key, set[Key]] = {}  # a Service's slices

    def of(self, key: Key) -> tuple[Backend, ...]:
        """Return what is behind a Service, by address; nothing for an ExternalName or one that is not there."""
        service = self._services.get(key)
        if service is None or service.type is ServiceType.EXTERNAL_NAME:
            return ()
        found = [pod_backend(service, self._pods[pod]) for pod in self._members.get(key, ())]
        backends = [backend for backend in found if backend]
        for written in self._written.get(key, ()):
            backends += slice_backends(self._slices[written])
        return in_order(backends)

    def set_service(self, service: Service) -> None:
        """Take a new or changed Service."""
        self.remove_service(service.key)
        self._services[service.key] = service
        if service.selector:
            labels = [(service.namespace, name, value) for name, value in service.selector]
            label = min(labels, key=lambda found: (len(self._selecting.get(found, ())), found))  # the most telling one
            self._selecting.setdefault(label, {})[service.key] = None
            self._label[service.key] = label
            pods = min((self._labelled.get(label, {}) for label in labels), key=len)
            self._members[service.key] = {pod for pod in pods if _selects(service, self._pods[pod])}

    def remove_service(self, key: Key) -> None:
        """Forget a Service. What was written for it stays, for one of the same name."""
        self._services.pop(key, None)
        if label := self._label.pop(key, None):
            _discard(self._selecting, label, key)
        self._members.pop(key, None)

    def set_slice(self, written: EndpointSlice) -> set[Key]:
        """Take a new or changed EndpointSlice; return the Services that this touches."""
        touched = self.remove_slice(written.key)
        owner = (written.namespace, written.service)
        self._slices[written.key] = written
        self._written.setdefault(owner, set()).add(written.key)
        return self._known(touched | {owner})

    def remove_slice(self, key: Key) -> set[Key]:
        """Forget an EndpointSlice; return the Services that this touches."""
        before = self._slices.pop(key, None)
        if before is None:
            return set()
        owner = (before.namespace, before.service)
        self._written[owner].discard(key)
        return self._known({owner})

    def sync(self, pods: Iterable[PodState]) -> set[Key]:
        """Take all pods that there are; return the Services whose endpoints are others than before."""
        now = {state.key: state for state in pods}
        gone = [state for key, state in self._pods.items() if key not in now]
        return self.changed(gone, now.values())

    def changed(self, old: Iterable[PodState], new: Iterable[PodState]) -> set[Key]:
        """Take pods as they are now, and drop the `old` ones that are not among them; return the touched Services."""
        current = {state.key: state for state in new}
        touched = [self._replace(state.key, None) for state in old if state.key not in current]
        touched += [self._replace(key, state) for key, state in current.items()]
        return set().union(*touched)

    def _replace(self, key: Key, new: PodState | None) -> set[Key]:
        old = self._pods.get(key)
        if old == new:
            return set()
        before = self._selected_by(old) if old else set()
        if old and (new is None or new.pod.labels != old.pod.labels):
            for label in _labels(old):
                _discard(self._labelled, label, key)
        if new is None:
            self._pods.pop(key, None)
        else:
            self._pods[key] = new
            for label in _labels(new):
                self._labelled.setdefault(label, {})[key] = None
        after = self._selected_by(new) if new else set()
        for service in before - after:
            self._members[service].discard(key)
        for service in after - before:
            self._members[service].add(key)
        return (before ^ after) | {service for service in before & after if self._differs(service, old, new)}

    def _differs(self, key: Key, old: PodState | None, new: PodState | None) -> bool:
        """Say whether a Service sees a pod otherwise than before: not if only the time of its readiness is another."""
        service = self._services[key]
        return old is None or new is None or pod_backend(service, old) != pod_backend(service, new)

    def _selected_by(self, state: PodState) -> set[Key]:
        keys = (key for label in _labels(state) for key in self._selecting.get(label, ()))
        return {key for key in keys if _selects(self._services[key], state)}

    def _known(self, keys: set[Key]) -> set[Key]:
        return {key for key in keys if key in self._services}


def _selects(service: Service, state: PodState) -> bool:
    """Say whether a Service of the pod's namespace selects it."""
    return set(service.selector or ()) <= set(state.pod.labels)


def _labels(state: PodState) -> Iterable[Label]:
    return ((state.pod.namespace, name, value) for name, value in state.pod.labels)


def _discard(index: dict[Label, dict[Key, None]], label: Label, key: Key) -> None:
    keys = index.get(label, {})
    keys.pop(key, None)
    if not keys:
        index.pop(label, None)
