"""The texts of /etc/hosts and /etc/resolv.conf inside a lab. Pure.

A pod's are as kubelet writes them for it; a machine knows its neighbours by name, as if somebody had edited its file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netlab.plan.underlay import router_address
from netlab.store.store import Snapshot
from netlab.topology.model import Address, Pod, Proxy, Topology
from netlab.topology.system import dns_addresses

ZONE = "cluster.local"

_LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
_NO_SERVER = """\
# No nameserver: a resolver then asks 127.0.0.1, where nobody listens, and fails at once (resolv.conf(5)).
"""


class EtcFiles(NamedTuple):
    """What a pod, node or router finds in two of its files."""

    hosts: str
    resolv_conf: str


def etc_files(topology: Topology, snapshot: Snapshot, member: str) -> EtcFiles:
    """Return both files of a pod, node or router."""
    return EtcFiles(hosts(topology, snapshot, member), resolv_conf(topology, member))


def pod_files(topology: Topology, snapshot: Snapshot) -> dict[str, EtcFiles]:
    """Return both files of every pod that has containers, by its name."""
    return {pod.name: etc_files(topology, snapshot, pod.name) for pod in topology.pods if pod.containers}


def hosts(topology: Topology, snapshot: Snapshot, member: str) -> str:
    """Return /etc/hosts of a pod, node or router.

    A pod's holds itself and its hostAliases, a machine's every machine, a hostNetwork pod's its node's and its
    hostAliases (kubelet's managed hosts file; names follow an address after a tab each).
    """
    pod = topology.find_pod(member)
    if pod is None:
        return "# Written by netlab.\n" + _LOCALHOST + _lines(_machines(topology, snapshot))
    if pod.host_network:
        text = "# Written by netlab, as kubelet does (host network).\n"
        return text + _LOCALHOST + _lines(_machines(topology, snapshot)) + _aliases(pod)
    text = "# Written by netlab, as kubelet does.\n"
    return text + _LOCALHOST + _lines((address, _own_names(pod)) for address in snapshot.pods[pod.name]) + _aliases(pod)


def _own_names(pod: Pod) -> str:
    """Return a pod's host name; with a subdomain its whole name in the cluster comes first."""
    name = pod.hostname or pod.name
    return f"{name}.{pod.subdomain}.{pod.namespace}.svc.{ZONE}\t{name}" if pod.subdomain else name


def resolv_conf(topology: Topology, member: str) -> str:
    """Return /etc/resolv.conf: a pod's names cluster DNS and its search list, others' none.

    A pod's dnsPolicy may be the node's file, and with hostNetwork it is, if not ClusterFirstWithHostNet.
    """
    pod = topology.find_pod(member)
    if pod is None or not pod.asks_cluster_dns:
        return _NO_SERVER
    search = f"search {pod.namespace}.svc.{ZONE} svc.{ZONE} {ZONE}\n"
    if topology.proxy is Proxy.NONE:
        return f"{search}options ndots:5\n{_NO_SERVER}"
    servers = (f"nameserver {address}\n" for address in dns_addresses(topology.service_cidrs))
    return f"{search}{''.join(servers)}options ndots:5\n"


def _machines(topology: Topology, snapshot: Snapshot) -> Iterator[tuple[Address, str]]:
    """Yield every underlay address with the machine's name: routers, then nodes, in the order of the file."""
    for router in topology.routers:
        for segment in router.segments:
            for cidr in topology.segment(segment).cidrs:
                yield router_address(topology, router, cidr, segment), router.name
    for node in topology.nodes:
        lease = snapshot.leases.get(node.name)
        for address in lease.public_ips if lease else snapshot.machines.get(node.name, ()):
            yield address, node.name


def _aliases(pod: Pod) -> str:
    """Return kubelet's section for hostAliases; nothing when there are none."""
    if not pod.host_aliases:
        return ""
    text = "\n# Entries added by HostAliases.\n"
    return text + "".join("\t".join((str(alias.ip), *alias.hostnames)) + "\n" for alias in pod.host_aliases)


def _lines(entries: Iterator[tuple[Address, str]]) -> str:
    return "".join(f"{address}\t{name}\n" for address, name in entries)
