"""The topology file, field by field: its names, types, defaults and what each is for.

The names are Kubernetes', kind's and flannel's where they have one. `docs/topology.md` and the JSON Schema for editors
are made from these classes, so a description here is what a reader sees there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from netlab.topology.fields import (
    Addresses,
    Cidrs,
    CidrText,
    Label,
    Mtu,
    Port,
    count_of,
    count_of_pods,
    entries,
    not_a,
    refuse,
)
from netlab.topology.findings import quote, suggest
from netlab.topology.pod_schema import PodSettings, PodSpec
from netlab.topology.proxy_schema import (
    ConntrackSpec,
    IptablesSpec,
    IpvsSpec,
    NftablesSpec,
    NodePortAddresses,
    ProxyName,
)
from netlab.topology.service_schema import ServiceSettings, ServiceSpec
from netlab.topology.spec import Spec, field_names


class BridgeSpec(Spec):
    """No overlay: a pod reaches the pods of its own node only."""

    type: Literal["bridge"]


class VxlanSpec(Spec):
    """Ethernet frames of pods in UDP between the nodes, over any underlay."""

    type: Literal["vxlan"] = "vxlan"
    vni: int = Field(
        1, alias="VNI", ge=1, le=2**24 - 1, description="VXLAN network identifier; names the device `flannel.<VNI>`."
    )
    port: int = Field(8472, alias="Port", ge=0, le=65535, description="UDP port; 0 is the kernel's own, 8472.")
    direct_routing: bool = Field(
        False, alias="DirectRouting", description="Plain routes, as host-gw has them, to nodes of the same segment."
    )
    mtu: Mtu | None = Field(
        None, alias="MTU", description="MTU of the underlay to reckon with. Without it: that of the node's segment."
    )
    learning: bool = Field(False, alias="Learning", description="Let the device learn addresses from what it receives.")
    gbp: bool = Field(False, alias="GBP", description="VXLAN Group Based Policy extension.")


class HostGwSpec(Spec):
    """Plain routes between nodes of one segment: no overhead, and no way across a router."""

    type: Literal["host-gw"]


class IpipSpec(Spec):
    """IP packets of pods in IP packets between the nodes (IPv4 only; needs the kernel's ipip module)."""

    type: Literal["ipip"]
    direct_routing: bool = Field(
        False, alias="DirectRouting", description="Plain routes, as host-gw has them, to nodes of the same segment."
    )


class UdpSpec(Spec):
    """IP packets of pods in UDP datagrams, carried by a process on each node (IPv4 only; needs /dev/net/tun)."""

    type: Literal["udp"]
    udp_port: Port = Field(8285, alias="Port", description="UDP port of every node.")  # no option that vxlan shares
    forwarder: Literal["auto", "simple", "batched", "ebpf"] = Field(
        "auto", description="The program that carries them; `auto` is the fastest that this machine allows."
    )


BackendType = Literal["bridge", "vxlan", "host-gw", "ipip", "udp"]
BACKENDS: dict[str, type[Spec]] = {
    "bridge": BridgeSpec,
    "vxlan": VxlanSpec,
    "host-gw": HostGwSpec,
    "ipip": IpipSpec,
    "udp": UdpSpec,
}
DEFAULT_BACKEND = "vxlan"
AnyBackend = Annotated[BridgeSpec | VxlanSpec | HostGwSpec | IpipSpec | UdpSpec, Field(discriminator="type")]


def _backend(value: Any) -> Any:
    """Undo the short form (a type alone) and give options their own letter case, which flannel ignores."""
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict):
        not_a("the type of a backend, or a mapping with `type` and its options")
    own_case = {name.casefold(): name for model in BACKENDS.values() for name in field_names(model)}
    options: dict[str, Any] = {}
    for written, option in value.items():
        name = own_case.get(written.casefold()) or written
        if name in options:
            refuse(f"gives {name} twice", "letter case makes no difference in the options of a backend")
        options[name] = option
    if options.get("type") is None:
        options["type"] = DEFAULT_BACKEND
    if not isinstance(options["type"], str) or options["type"] not in BACKENDS:
        found = options["type"]
        refuse(f"{quote(found)} is not a backend{suggest(str(found), BACKENDS)}", field="type")
    return options


class SegmentSpec(Spec):
    """One layer-2 network of the underlay: a switch that some nodes are plugged into."""

    cidr: Cidrs = Field(description="Addresses of the machines on it; one CIDR, or one per IP version.")
    mtu: Mtu | None = Field(None, description="MTU of every link on it. Without it: `underlay.mtu`.")


def _cidr_alone(value: Any) -> Any:
    return {"cidr": value} if isinstance(value, str | list) else value


Segment = Annotated[
    SegmentSpec, BeforeValidator(_cidr_alone, json_schema_input_type=SegmentSpec | CidrText | list[CidrText])
]


class UnderlaySpec(Spec):
    """The network that joins the nodes."""

    mtu: Mtu = Field(1500, description="MTU of every link of the underlay.")
    cidr: Cidrs | None = Field(
        None,
        description="CIDR of the one segment, when there is one only; or one per IP version.",
        json_schema_extra={"x-default": "172.18.0.0/16, fd00:172:18::/64: those of clusterCIDR's IP versions"},
    )
    segments: dict[Label, Segment] = Field({}, description="Several layer-2 networks, by name. Not with `cidr`.")
    routers: dict[Label, list[Label]] = Field(
        {}, description="Machines that join segments, by name: the segments of each."
    )


class NodeSettings(Spec):
    """A machine, apart from its name."""

    segment: Label | None = Field(None, description="The segment it sits in. Needed when there are several.")
    ip: Addresses = Field([], description="Its address, or one per IP version. Without it: the next free one.")
    proxy: ProxyName | None = Field(None, description="How it carries out Services. Without it: the file's `proxy`.")


class NodeSpec(NodeSettings):
    """A machine. Written as a name alone when it needs no more."""

    name: Label = Field(description="Its name, for `netlab exec NAME` and the rest.")


class CheckSpec(Spec):
    """What `netlab check` tries, beside every pod to every pod."""

    source: str = Field(alias="from", description="The pod, node, router or external machine that sends.")
    target: str = Field(alias="to", description="What it sends to: one of those, or an IP address.")
    tcp: Port | None = Field(None, description="Connect to this TCP port. Without it: ICMP echo.")
    size: int | None = Field(
        None, ge=28, le=65535, description="Size of the IP packet in bytes, header included, sent with don't-fragment."
    )
    expect: Literal["reachable", "unreachable", "too-big"] = Field("reachable", description="What must come of it.")


Count = Annotated[int, Field(ge=0)]
NodeForms = Count | list[NodeSpec | str] | dict[str, NodeSettings | None]
PodForms = Count | list[PodSpec | str] | dict[str, PodSettings | None]
Nodes = Annotated[list[NodeSpec], BeforeValidator(entries(count_of("n", 1)), json_schema_input_type=NodeForms)]
Externals = Annotated[list[NodeSpec], BeforeValidator(entries(count_of("ext", 0)), json_schema_input_type=NodeForms)]
Pods = Annotated[list[PodSpec], BeforeValidator(entries(count_of_pods), json_schema_input_type=PodForms)]
ServiceForms = list[ServiceSpec] | dict[str, ServiceSettings]
Services = Annotated[list[ServiceSpec], BeforeValidator(entries(None), json_schema_input_type=ServiceForms)]


class TopologyFile(Spec):
    """A whole lab."""

    name: Label | None = Field(
        None, description="Name of the lab.", json_schema_extra={"x-default": "the file's name without its ending"}
    )
    cluster_cidr: Cidrs = Field(
        "10.244.0.0/16",
        validate_default=True,
        alias="clusterCIDR",
        description="Addresses of all pods; every node gets a part. One CIDR, or one per IP version (dual-stack).",
    )
    node_mask_ipv4: int | None = Field(
        None,
        alias="nodeCIDRMaskSizeIPv4",
        description="Prefix length of a node's part (podCIDR). flannel's SubnetLen.",
        json_schema_extra={"x-default": "24; that of clusterCIDR + 2 when it is longer than 22"},
    )
    node_mask_ipv6: int | None = Field(
        None,
        alias="nodeCIDRMaskSizeIPv6",
        description="The same for IPv6. flannel's IPv6SubnetLen.",
        json_schema_extra={"x-default": "64; that of clusterCIDR + 2 when it is longer than 62"},
    )
    service_cidr: Cidrs | None = Field(
        None,
        alias="serviceCIDR",
        description="Addresses of Services. One CIDR, or one per IP version.",
        json_schema_extra={"x-default": "10.96.0.0/16, fd00:10:96::/112: those of clusterCIDR's IP versions"},
    )
    load_balancer_cidr: Cidrs | None = Field(
        None,
        alias="loadBalancerCIDR",
        description="Addresses for Services of type LoadBalancer. One CIDR, or one per IP version.",
        json_schema_extra={"x-default": "203.0.113.0/24, 2001:db8:113::/112: those of clusterCIDR's IP versions"},
    )
    proxy: ProxyName = Field(
        "iptables",
        description="How nodes carry out Services: kube-proxy's mode, or `none` for no Services and no cluster DNS.",
    )
    node_port_addresses: NodePortAddresses = Field(
        [],
        alias="nodePortAddresses",
        description="Which of their addresses nodes have NodePorts at: CIDRs, or `primary` for a node's own alone.",
        json_schema_extra={"x-default": "all; in mode nftables `primary`"},
    )
    iptables: IptablesSpec = Field(
        {},
        validate_default=True,
        description="What else kube-proxy has for mode iptables, as mapping of the fields below.",
        json_schema_extra={"x-default": "kube-proxy's"},
    )
    nftables: NftablesSpec = Field(
        {},
        validate_default=True,
        description="The same for mode nftables.",
        json_schema_extra={"x-default": "kube-proxy's"},
    )
    ipvs: IpvsSpec = Field(
        {},
        validate_default=True,
        description="How nodes in mode ipvs balance, as mapping of the fields below.",
        json_schema_extra={"x-default": "round robin"},
    )
    conntrack: ConntrackSpec = Field(
        {},
        validate_default=True,
        description="How nodes that have Services track connections, as mapping of the fields below.",
        json_schema_extra={"x-default": "kube-proxy's"},
    )
    ip_masq: bool = Field(
        True, alias="ipMasq", description="Whether pods reach the outside with their node's address (masquerade)."
    )
    netfilter: Literal["iptables", "nftables"] = Field(
        "iptables", description="What the masquerade rules are written in. flannel's EnableNFTables."
    )
    backend: Annotated[AnyBackend, BeforeValidator(_backend, json_schema_input_type=BackendType | AnyBackend)] = Field(
        DEFAULT_BACKEND,
        validate_default=True,
        description="How pods of different nodes reach each other: a type, or a mapping of `type` and its options.",
    )
    underlay: UnderlaySpec = Field(
        {},
        validate_default=True,
        description="What the nodes are plugged into, as mapping of the fields below.",
        json_schema_extra={"x-default": "one segment"},
    )
    nodes: Nodes = Field(
        min_length=1,
        description="The cluster's machines: a number (`n1` ...), a list of names or mappings, or a mapping by name.",
    )
    external: Externals = Field(
        [], description="Machines outside the cluster, in the same forms (a number: `ext1` ...)."
    )
    pods: Pods = Field(
        [],
        description="The pods: a number (`p-1` ...), a list of names or mappings, or a mapping by name.",
    )
    services: Services = Field(
        [], description="Stable addresses in front of pods: a list of mappings, or a mapping by name."
    )
    checks: list[CheckSpec] = Field([], description="What `netlab check` tries, beside every pod to every pod.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of topology files, for editors. Every file that loads fulfils it."""
    generated = TopologyFile.model_json_schema()
    for model in (generated, *generated["$defs"].values()):
        needed = model.get("required", [])
        model["properties"] = {
            name: _tidy(field, needed=name in needed) for name, field in model.get("properties", {}).items()
        }
    for spec in BACKENDS.values():
        _ignore_case(generated["$defs"][spec.__name__])
    generated["patternProperties"] = {"^x-": {"description": "Ignored: a place for YAML anchors."}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **generated, "title": "netlab topology"}


def _tidy(field: dict[str, Any], *, needed: bool) -> dict[str, Any]:
    """Return a field's schema as people read it; what is not needed may be left empty."""
    field = {key: value for key, value in field.items() if key != "title" and (key, value) != ("default", None)}
    if "patternProperties" in field:
        field["additionalProperties"] = False
    if default := field.pop("x-default", ""):
        field["description"] += f" Default: {default}."
    may_be_empty = any(choice == {"type": "null"} for choice in field.get("anyOf", ()))
    if needed or may_be_empty:
        return field
    about: dict[str, Any] = {key: field.pop(key) for key in ("description", "default") if key in field}
    choices = field["anyOf"] if set(field) == {"anyOf"} else [field]
    return {**about, "anyOf": [*choices, {"type": "null"}]}


def _ignore_case(model: dict[str, Any]) -> None:
    """Let the names of a backend's options be in any letter case, as flannel does."""
    model["patternProperties"] = {
        "^" + "".join(f"[{letter.lower()}{letter.upper()}]" for letter in name) + "$": field
        for name, field in model["properties"].items()
    }
