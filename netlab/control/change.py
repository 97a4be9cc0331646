"""A change of pods in a lab that is up, which costs what these pods cost: nothing else is compared with the plan."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from netlab import names
from netlab.folder import LabFolder
from netlab.kernel import netns
from netlab.kernel.linux import LinuxKernel
from netlab.lab import LOCK_WAIT, Lab
from netlab.plan.objects import Objects, Process
from netlab.plan.share import Share, share_of
from netlab.topology.model import Topology
from netlab.topology.pod import Pod


def change_pods(lab: str, add: Collection[Pod] = (), remove: Collection[str] = (), *, wait: float = LOCK_WAIT) -> None:
    """Add pods, and remove others by name; all else stays what the record says. Pods that are lost are made again.

    Raises NetlabError; what was done stays, and the same call again finishes it.
    """
    folder = LabFolder(lab)
    folder.require()
    with folder.lock(wait):
        record = folder.read_record()
        held = folder.store.read()
        changed = {*remove, *(pod.name for pod in add)}
        kept = (pod for pod in record.topology.pods if pod.name not in changed)
        found = Lab(replace(record.topology, pods=(*kept, *add)), record.source)
        snapshot = found.acquire()
        present = _presence(found)
        changed |= {name for name, addresses in snapshot.pods.items() if addresses != held.pods.get(name)}
        changed |= present.missing(found.topology)
        share = share_of(changed, (record.topology, held), (found.topology, snapshot))
        with LinuxKernel(found.keeper) as kernel:
            if present.is_of(record.topology, found.topology) and all(map(netns.is_alive, share.nodes)):
                _converge(found, kernel, share)
            else:
                found.realize(kernel)


@dataclass(frozen=True, slots=True)
class _Presence:
    """The names that have namespaces, and those of pods that have processes."""

    namespaces: frozenset[str]
    processes: frozenset[str]

    def missing(self, topology: Topology) -> set[str]:
        """Return the pods that have no namespace of their own, or containers without any process."""
        return {
            pod.name
            for pod in topology.pods
            if (pod.containers and pod.name not in self.processes)
            or not (pod.host_network or pod.name in self.namespaces)
        }

    def is_of(self, *topologies: Topology) -> bool:
        """Say whether nothing is left of a pod that is in none of these, as after a crash."""
        return self.namespaces | self.processes <= {name for topology in topologies for name in topology.members()}


def _presence(lab: Lab) -> _Presence:
    kept = lab.keeper.observe().values()  # first: a pod whose pause has ended loses its namespace here
    processes = frozenset(process.pod for found in kept for process in found if isinstance(process, Process))
    owners = map(names.find_owner, netns.names(names.fabric(lab.name)))
    namespaces = (owner.name for owner in owners if owner and owner.lab == lab.name)
    return _Presence(frozenset(name for name in namespaces if name), processes)


def _converge(lab: Lab, kernel: LinuxKernel, share: Share) -> None:
    def observe() -> Objects:
        return share.of(kernel.observe(lab.name, share.wanted, {*share.namespaces, *share.nodes}).objects)

    lab.converge(kernel, observe, share.wanted)
