"""Pods and what makes them: containers, probes, templates and workloads, as Kubernetes' v1 and apps/v1 have them.

Frozen values; nothing here knows a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from netlab.topology.addresses import Address
from netlab.topology.service import DEFAULT_NAMESPACE, Labels, Protocol

SYSTEM = "system"  # the owner of pods that every cluster has
GRACE = 3  # seconds; Kubernetes gives 30, and who waits for a lab has less patience


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One environment variable of a container: a value, or the pod's field that holds it (fieldRef.fieldPath)."""

    name: str
    value: str = ""
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that a container serves. The built-in echo server listens there; Services find it by name."""

    port: int
    name: str = ""
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class HttpGet:
    """An HTTP request: any status from 200 to 399 is a success. `port` is a number or a container port's name."""

    port: str
    path: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """A readiness or startup probe: exactly one of `command`, `tcp_port` and `http` is given. Times in seconds."""

    command: tuple[str, ...] = ()
    tcp_port: str = ""  # a number or a container port's name
    http: HttpGet | None = None
    initial_delay: float = 0
    period: float = 10
    timeout: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class Container:
    """A process in a pod's namespace. `command` is an argv; without one it is netlab's echo server on its `ports`.

    `restart` says whether it is started again when it ends.
    """

    name: str
    command: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    working_dir: str = "/"
    restart: bool = True
    ports: tuple[ContainerPort, ...] = ()
    readiness: Probe | None = None
    startup: Probe | None = None  # until it has succeeded once the container is not ready


class DnsPolicy(StrEnum):
    """Whose resolv.conf a pod has. There is no None: pods have no dnsConfig."""

    CLUSTER_FIRST = "ClusterFirst"  # the cluster's; with hostNetwork the node's
    CLUSTER_FIRST_WITH_HOST_NET = "ClusterFirstWithHostNet"  # the cluster's
    DEFAULT = "Default"  # the node's


@dataclass(frozen=True, slots=True)
class HostAlias:
    """A line of the pod's /etc/hosts."""

    ip: Address
    hostnames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod on its node. `addresses` are those the user chose (may be empty, and are empty for hostNetwork).

    `owner` is what made it ("Deployment default/web"; "manifest" for one of `netlab apply`; empty for one of the
    topology file), `revision` the hash of the template that it was made of.
    """

    name: str
    node: str
    labels: Labels = ()
    containers: tuple[Container, ...] = ()
    host_network: bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    addresses: tuple[Address, ...] = ()
    namespace: str = DEFAULT_NAMESPACE
    hostname: str = ""  # "": the pod's name
    subdomain: str = ""
    grace: int = GRACE  # seconds: terminationGracePeriodSeconds
    owner: str = ""
    revision: str = ""
    dns_policy: DnsPolicy = DnsPolicy.CLUSTER_FIRST

    @property
    def asks_cluster_dns(self) -> bool:
        """Say whether its resolv.conf is the cluster's (facts.md 7.3)."""
        if self.host_network:
            return self.dns_policy is DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET
        return self.dns_policy is not DnsPolicy.DEFAULT


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """What a workload makes pods of. Without `node` the scheduler chooses."""

    labels: Labels
    containers: tuple[Container, ...] = ()
    host_network: bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    hostname: str = ""
    subdomain: str = ""
    node: str = ""
    grace: int = GRACE
    dns_policy: DnsPolicy = DnsPolicy.CLUSTER_FIRST


class WorkloadKind(StrEnum):
    """Which controller keeps the pods."""

    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    DAEMON_SET = "DaemonSet"


class Strategy(StrEnum):
    """How pods of an old template are replaced."""

    ROLLING_UPDATE = "RollingUpdate"
    RECREATE = "Recreate"  # Deployment: all at once
    ON_DELETE = "OnDelete"  # StatefulSet and DaemonSet: when somebody deletes them


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet or DaemonSet.

    `max_surge` and `max_unavailable` are numbers of pods, or percentages of `replicas` ("25%").
    """

    kind: WorkloadKind
    name: str
    selector: Labels
    template: PodTemplate
    namespace: str = DEFAULT_NAMESPACE
    labels: Labels = ()
    replicas: int = 1  # no meaning in a DaemonSet
    strategy: Strategy = Strategy.ROLLING_UPDATE
    max_surge: str = "25%"  # a DaemonSet's default is "0"
    max_unavailable: str = "25%"  # a DaemonSet's and a StatefulSet's default is "1"
    min_ready: int = 0  # seconds that a pod must have been ready to count as available
    service: str = ""  # StatefulSet: serviceName, the subdomain of its pods
    partition: int = 0  # StatefulSet: pods of lower ordinals keep the old template
    parallel: bool = False  # StatefulSet: podManagementPolicy Parallel

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what names it in the cluster."""
        return self.kind, self.namespace, self.name

    @property
    def owner(self) -> str:
        """Return what its pods carry as their owner."""
        return f"{self.kind} {self.namespace}/{self.name}"
