"""Faults that a test puts into a lab, and what `netlab trace` is to say: frames that get lost between namespaces.

A fault is shell commands in members' namespaces, and what takes it away again where `netlab up` would not. `$a` is the
address of pod a, `$a6` its IPv6 address, `$port_a` its port on the node's bridge, `$mac_a` its MAC, `$ns_a` its
namespace; `test_trace_drops` has them all. `trace_faults_ends` has more faults.
"""

from __future__ import annotations

from dataclasses import dataclass

from netlab.trace.question import Options, Protocol

# Pods a and c on n1, b on n2, d on n3. Nodes n1 and n2 carry Services out by iptables, n3 by nftables.
TOPOLOGY = """
clusterCIDR: [10.244.0.0/16, "fd00:10:244::/56"]
underlay: {cidr: [172.18.0.0/16, "fd00:172:18::/64"]}
nodes: [n1, n2, {name: n3, proxy: nftables}]
external: [client]
backend: vxlan
pods:
- {name: a, node: n1, labels: {app: own}, containers: [{name: echo, ports: [8080]}]}
- {name: b, node: n2, labels: {app: far}, containers: [{name: echo, ports: [8080]}]}
- {name: c, node: n1}
- {name: d, node: n3}
services:
- {name: own, selector: {app: own}, ports: [{port: 80, targetPort: 8080}]}
- name: local
  type: NodePort
  selector: {app: far}
  ports: [{port: 80, targetPort: 8080, nodePort: 30081}]
  externalTrafficPolicy: Local
- name: shop
  type: LoadBalancer
  selector: {app: far}
  ports: [{port: 80, targetPort: 8080}]
  loadBalancerIP: 203.0.113.80
  loadBalancerSourceRanges: [198.51.100.0/24]
"""
UNDERLAY = ""  # the fabric's namespace
WAIT = 0.05  # seconds: nothing that is dropped is answered
USUAL = Options(wait=WAIT)
Commands = tuple[tuple[str, str], ...]  # member, shell command


@dataclass(frozen=True)
class Fault:
    """What is broken and what is to be seen.

    `saw` is the verdict, the probe's last member and device, the reason and place of the drop, and where that is if it
    is the answer's; it, `says` (of the summary) and `look` (of the hint) are regular expressions.
    """

    name: str
    put_in: Commands
    saw: str
    says: str
    look: str = ""
    words: tuple[str, str] = ("a", "b")
    taken_out: Commands = ()
    protocol: Protocol | None = None
    version: int = 4
    options: Options = USUAL
    slow: bool = False


FRAMES = (
    Fault(
        "tunnel's MTU, DF",
        (
            ("a", "ip link set eth0 mtu 9000"),
            ("n1", "ip link set $port_a mtu 9000"),
            ("n1", "ip link set cni0 mtu 9000"),
        ),
        "dropped n1/cni0 PKT_TOO_BIG @ ip_forward",
        "it has 3000 bytes, and the MTU of flannel.1 is 1450.*; n1 told a: Frag needed and DF set, MTU 1450",
        "ip link",
        options=Options(size=3000, dont_fragment=True, wait=WAIT),
    ),
    Fault(
        "tunnel's MTU, fragmented",
        (
            ("a", "ip link set eth0 mtu 9000"),
            ("n1", "ip link set $port_a mtu 9000"),
            ("n1", "ip link set cni0 mtu 9000"),
        ),
        "answered b/eth0",
        "b answered",
        options=Options(size=3000, wait=WAIT),
    ),
    Fault(
        "MTU of a cable's other end",
        (("a", "ip link set eth0 mtu 9000"),),
        "dropped a/eth0 NOT_SPECIFIED @ __dev_forward_skb",
        "the other end of eth0 is down, or its MTU is smaller",
        "ip -s link",
        options=Options(size=3000, wait=WAIT),
    ),
    Fault(
        "underlay MTU too small: fragmented",
        (("n1", "ip link set eth0 mtu 1400"), ("n2", "ip link set eth0 mtu 1400")),
        "answered b/eth0",
        "b answered",
        options=Options(size=1430, wait=WAIT),
    ),
    Fault(
        "MTU of a bridge's port",
        ((UNDERLAY, "ip link set n2-eth0 mtu 1400"),),
        "dropped underlay/n2-eth0 NOT_SPECIFIED @ br_dev_queue_push_xmit",
        "the MTU of the bridge port n2-eth0",
        "ip -s link",
        options=Options(size=1430, wait=WAIT),
    ),
    Fault(
        "MTU of one node: black hole",
        (("n1", "ip link set eth0 mtu 1400"),),
        "dropped b/eth0 NOT_SPECIFIED @ __dev_forward_skb answer underlay/n1-eth0",
        "whose answer was dropped on underlay, n1-eth0: the other end of n1-eth0",
        options=Options(size=1430, wait=WAIT),
    ),
    Fault(
        "VNI differs",
        (
            ("n2", "ip link del flannel.1"),
            ("n2", "ip link add flannel.1 address $vtep_n2 type vxlan id 7 local $node_n2 dstport 8472"),
            ("n2", "ip link set flannel.1 up"),
        ),
        "dropped n2/eth0 VXLAN_VNI_NOT_FOUND @ vxlan_rcv",
        "n2 has no VXLAN device with VNI 1",
        "ip -d link show type vxlan",
        taken_out=(("n2", "ip link del flannel.1"),),
    ),
    Fault(
        "no VXLAN device",
        (("n2", "ip link del flannel.1"), ("n2", "ip link del flannel-v6.1")),
        "dropped n2/eth0 NO_SOCKET @ __udp4_lib_rcv",
        "n2 has no tunnel device that would unwrap it",
        "ip -d link show",
    ),
    Fault(
        "FDB entry missing",
        (("n1", "bridge fdb del $vtep_n2 dev flannel.1 dst $node_n2"),),
        "dropped n1/flannel.1 NO_TX_TARGET @ vxlan_xmit",
        "flannel.1 has no FDB entry for $vtep_n2",
        "bridge fdb show dev flannel.1",
    ),
    Fault(
        "FDB entry of another node",
        (("n1", "bridge fdb replace $vtep_n2 dev flannel.1 dst $node_n3"),),
        "dropped n3/flannel.1 OTHERHOST @ ip_rcv_core",
        "it is for MAC $vtep_n2, which is not that of flannel.1",
        "exec $ns_n1 bridge fdb show dev flannel.1",
    ),
    Fault(
        "FDB entry of a dead node",
        (("n1", "bridge fdb replace $vtep_n2 dev flannel.1 dst 172.18.99.77"),),
        "dropped n1/eth0 NEIGH_FAILED @ neigh_",
        "nobody answered when n1 asked for the MAC of 172.18.99.77 on eth0",
        "ip neigh",
        slow=True,
    ),
    Fault(
        "neighbour of the tunnel missing",
        (("n1", "ip neigh del $tunnel_n2 dev flannel.1"),),
        "dropped n1/flannel.1 NEIGH_FAILED @ neigh_",
        "asked for the MAC of $tunnel_n2 on flannel.1; n1 told a: Destination host unreachable",
        "ip neigh",
        slow=True,
    ),
    Fault(
        "inner MAC wrong",
        (
            ("n1", "ip neigh replace $tunnel_n2 lladdr 0e:00:00:00:00:99 dev flannel.1 nud permanent"),
            ("n1", "bridge fdb append 0e:00:00:00:00:99 dev flannel.1 dst $node_n2"),
        ),
        "dropped n2/flannel.1 OTHERHOST @ ip_rcv_core",
        "it is for MAC 0e:00:00:00:00:99, which is not that of flannel.1",
        "exec $ns_n1 ip neigh show dev flannel.1",
        taken_out=(("n1", "bridge fdb del 0e:00:00:00:00:99 dev flannel.1 dst $node_n2"),),
    ),
    Fault(
        "neighbour MAC without FDB entry",
        (("n1", "ip neigh replace $tunnel_n2 lladdr 0e:00:00:00:00:99 dev flannel.1 nud permanent"),),
        "dropped n1/flannel.1 NO_TX_TARGET @ vxlan_xmit",
        "flannel.1 has no FDB entry for 0e:00:00:00:00:99",
        "bridge fdb show dev flannel.1",
    ),
    Fault(
        "pod's address gone",
        (("b", "ip addr flush dev eth0"),),
        "dropped b/eth0 IP_INADDRERRORS @ ip_error",
        "$b is not an address of b, and b does not forward",
        "ip address",
    ),
    Fault(
        "no such pod",
        (),
        "dropped n2/cni0 NEIGH_FAILED @ neigh_",
        "asked for the MAC of 10.244.2.200 on cni0; n2 told a: Destination host unreachable",
        "ip neigh",
        words=("a", "10.244.2.200"),
        slow=True,
    ),
    Fault(
        "no such pod on the sender's own node",
        (),
        "dropped a/eth0 NEIGH_FAILED @ neigh_",
        "asked for the MAC of 10.244.1.200 on eth0",
        "ip neigh",
        words=("a", "10.244.1.200"),
        slow=True,
    ),
    Fault(
        "pod's port down",
        (("n2", "ip link set $port_b down"),),
        "dropped n2/cni0 NO_TX_TARGET|NEIGH_FAILED @ br_dev_xmit|br_flood|neigh_",
        "the bridge has no port for $mac_b that is up|asked for the MAC of $b on cni0",
        "exec $ns_n2 (bridge link|ip neigh)",
    ),
    Fault(
        "pod's device down",
        (("b", "ip link set eth0 down"),),
        "dropped n2/cni0 NO_TX_TARGET|NEIGH_FAILED @ br_dev_xmit|br_flood|neigh_",
        "the bridge has no port for $mac_b that is up|asked for the MAC of $b on cni0",
        "exec $ns_n2 (bridge link|ip neigh)",
    ),
    Fault(
        "underlay port down",
        ((UNDERLAY, "ip link set n2-eth0 down"),),
        "dropped .*/eth0 OTHERHOST @ ip_rcv_core",
        "the bridge of underlay knew no port for it and sent it to all",
        "exec $fabric bridge link",
    ),
    Fault(
        "node's device down",
        (("n2", "ip link set eth0 down"),),
        "dropped .*/eth0 OTHERHOST @ ip_rcv_core",
        "the bridge of underlay knew no port for it and sent it to all",
        "exec $fabric bridge link",
    ),
    Fault(
        "bridge port not forwarding",
        ((UNDERLAY, "bridge link set dev n1-eth0 state 0"),),
        "dropped underlay/n1-eth0 BRIDGE_INGRESS_STP_STATE @ br_handle_frame",
        "the bridge port n1-eth0 is not in state forwarding",
        "exec $fabric bridge link show dev n1-eth0",
        taken_out=((UNDERLAY, "bridge link set dev n1-eth0 state 3"),),
    ),
    Fault(
        "neighbour MAC of a pod wrong",
        (("n2", "ip neigh replace $b lladdr 0e:00:00:00:00:98 dev cni0 nud permanent"),),
        "dropped b/eth0 OTHERHOST @ ip_rcv_core",
        "which is not that of eth0: the bridge of n2 knew no port",
        "exec $ns_n2 ip neigh show dev cni0",
        taken_out=(("n2", "ip neigh del $b dev cni0"),),
    ),
    Fault(
        "neighbour MAC in a pod wrong",
        (("a", "ip neigh replace $gateway_a lladdr 0e:00:00:00:00:98 dev eth0 nud permanent"),),
        "dropped .*/eth0 OTHERHOST @ ip_rcv_core",
        "the bridge of n1 knew no port",
        "exec $ns_a ip neigh show dev eth0",
        taken_out=(("a", "ip neigh del $gateway_a dev eth0"),),
    ),
    Fault(
        "neighbour MAC of a node wrong",
        (("n1", "ip neigh replace $node_n2 lladdr 0e:00:00:00:00:98 dev eth0 nud permanent"),),
        "dropped .*/eth0 OTHERHOST @ ip_rcv_core",
        "the bridge of underlay knew no port",
        "exec $ns_n1 ip neigh show dev eth0",
        taken_out=(("n1", "ip neigh del $node_n2 dev eth0"),),
    ),
    Fault(
        "bridge down",
        (("n2", "ip link set cni0 down"),),
        "dropped n2/flannel.1 IP_INNOROUTES @ ip_error",
        "n2 has no route to $b",
        "ip route get $b",
    ),
    Fault(
        "queue full",
        (("n1", "tc qdisc add dev eth0 root tbf rate 8bit burst 100 limit 100"),),
        "dropped n1/eth0 QDISC_DROP @ __dev_queue_xmit|__dev_xmit_skb|kfree_skb_list_reason",
        "the queueing discipline of eth0",
        "tc -s qdisc show dev eth0",
        taken_out=(("n1", "tc qdisc del dev eth0 root"),),
    ),
    Fault(
        "isolated ports",
        (
            ("a", "ip neigh replace $c lladdr $mac_c dev eth0 nud permanent"),
            ("n1", "bridge link set dev $port_a isolated on"),
            ("n1", "bridge link set dev $port_c isolated on"),
        ),
        "dropped n1/$port_a NOT_SPECIFIED @ br_",
        "the bridge may not send it to the port of $mac_c.*isolated",
        "bridge -d link",
        taken_out=(
            ("n1", "bridge link set dev $port_a isolated off"),
            ("n1", "bridge link set dev $port_c isolated off"),
            ("a", "ip neigh del $c dev eth0"),
        ),
        words=("a", "c"),
    ),
    Fault(
        "FDB entry of a bridge wrong",
        (
            ("a", "ip neigh replace $c lladdr $mac_c dev eth0 nud permanent"),
            ("n1", "bridge fdb replace $mac_c dev $port_a master static sticky"),
        ),
        "dropped a/eth0 OTHERHOST @ ip_rcv_core",
        "it is for MAC $mac_c, which is not that of eth0",
        "exec $ns_a ip neigh",
        taken_out=(("n1", "bridge fdb del $mac_c dev $port_a master"), ("a", "ip neigh del $c dev eth0")),
        words=("a", "c"),
    ),
    Fault(
        "hairpin mode off",
        (("n1", "bridge link set dev $port_a hairpin off"),),
        "dropped n1/$port_a NOT_SPECIFIED @ br_",
        "hairpin mode is off",
        "bridge -d link",
        words=("a", "svc/own:80"),
    ),
)
