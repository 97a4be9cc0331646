"""What a topology file says of kube-proxy: its mode, and fields of KubeProxyConfiguration under their own names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from netlab.topology.addresses import Network
from netlab.topology.fields import CidrText, not_a, parse_range, refuse
from netlab.topology.spec import Spec

ProxyName = Literal["iptables", "nftables", "ipvs", "none"]
SchedulerName = Literal["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq"]
PRIMARY = "primary"
MASQUERADE_ALL = "Whether every packet to a cluster IP is masqueraded, not only those from outside of clusterCIDR"


class IptablesSpec(Spec):
    """What kube-proxy's configuration has for mode iptables."""

    masquerade_all: bool = Field(
        False, alias="masqueradeAll", description=f"{MASQUERADE_ALL}. It holds for mode ipvs too, as in kube-proxy."
    )
    localhost_node_ports: bool = Field(
        True,
        alias="localhostNodePorts",
        description="Whether a node's own programs reach NodePorts at 127.0.0.1 (route_localnet 1).",
    )


class NftablesSpec(Spec):
    """What kube-proxy's configuration has for mode nftables."""

    masquerade_all: bool = Field(False, alias="masqueradeAll", description=f"{MASQUERADE_ALL}.")


class IpvsSpec(Spec):
    """What kube-proxy's configuration has for mode ipvs. Nodes in other modes do without."""

    scheduler: SchedulerName = Field(
        "rr", description="Which endpoint a connection gets: a scheduler of the kernel's, as `ipvsadm -s` has it."
    )
    strict_arp: bool = Field(
        False,
        alias="strictARP",
        description="Whether a node answers ARP for an interface's own addresses only (arp_ignore 1, arp_announce 2), "
        "not for those of `kube-ipvs0`. MetalLB wants it.",
    )


class ConntrackSpec(Spec):
    """What kube-proxy's configuration has for the connection tracking of nodes that have Services, in any mode."""

    tcp_be_liberal: bool = Field(
        False,
        alias="tcpBeLiberal",
        description="Whether TCP packets outside of the window still belong to their connection"
        " (nf_conntrack_tcp_be_liberal 1). Mode iptables then does not drop what conntrack calls INVALID.",
    )


def _places(value: Any) -> Any:
    """Make a list of one text and of `a,b`; `primary` stands alone."""
    values = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(values, list):
        not_a("a CIDR or a list")
    if PRIMARY in values and len(values) > 1:
        refuse(f"has '{PRIMARY}' beside something else", f"'{PRIMARY}' stands alone")
    return values


def _place(value: Any) -> Network | str:
    return PRIMARY if value == PRIMARY else parse_range(value)


PlaceText = Literal["primary"] | CidrText
Place = Annotated[Network | str, PlainValidator(_place, json_schema_input_type=PlaceText)]
NodePortAddresses = Annotated[list[Place], BeforeValidator(_places, json_schema_input_type=PlaceText | list[PlaceText])]
