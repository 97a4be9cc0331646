"""Two nodes with a pod each and an overlay between them, as the commands of `ip`, `bridge` and `iptables`. Pure.

Written from facts.md 1.10, 1.11 and 1.14, not from netlab's code: `bench path` compares netlab's path with this one.
"""

from __future__ import annotations

from collections.abc import Iterator

MTU = {"vxlan": 1450, "host-gw": 1500}
VTEP_MAC = {1: "5e:00:00:00:00:01", 2: "5e:00:00:00:00:02"}
RULES = """\
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.{n}.0/24 -d 10.244.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.{n}.0/24 -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.{n}.0/24 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -j ACCEPT
COMMIT
"""


def pod_netns(lab: str, number: int) -> str:
    """Name the namespace of a pod, 1 or 2."""
    return f"{lab}-pod{number}"


def pod_address(number: int) -> str:
    """Return the address of a pod, 1 or 2."""
    return f"10.244.{number}.2"


def script(lab: str, backend: str) -> str:
    """Return a shell script that makes the lab; its namespaces' names begin with `lab`."""
    lines = ["set -e", f"ip netns add {lab}-fabric", f"ip -n {lab}-fabric link add underlay up type bridge"]
    for number in (1, 2):
        lines += _node(lab, number, MTU[backend])
    for here, there in ((1, 2), (2, 1)):
        lines += _way(f"{lab}-node{here}", backend, here, there)
    return "\n".join([*lines, ""])


def _node(lab: str, number: int, mtu: int) -> Iterator[str]:
    """Yield a node on the underlay, with its pod's bridge and its pod."""
    node, pod = f"{lab}-node{number}", pod_netns(lab, number)
    for netns in (node, pod):
        yield f"ip netns add {netns}"
        yield f"ip netns exec {netns} sysctl -qw net.ipv6.conf.all.disable_ipv6=1"
        yield f"ip -n {netns} link set lo up"
    yield f"ip netns exec {node} sysctl -qw net.ipv4.ip_forward=1"
    yield f"ip -n {lab}-fabric link add port{number} up master underlay type veth peer name eth0 netns {node}"
    yield f"ip -n {node} link set eth0 up"
    yield f"ip -n {node} address add 172.18.0.{number + 1}/16 dev eth0"
    yield f"ip -n {node} link add cni0 up type bridge"
    yield f"ip -n {node} link add veth0 mtu {mtu} up master cni0 type veth peer name eth0 mtu {mtu} netns {pod}"
    yield f"ip -n {node} link set veth0 type bridge_slave hairpin on"
    yield f"ip -n {node} link set cni0 mtu {mtu}"
    yield f"ip -n {node} address add 10.244.{number}.1/24 dev cni0"
    yield f"ip -n {pod} link set eth0 up"
    yield f"ip -n {pod} address add {pod_address(number)}/24 dev eth0"
    yield f"ip -n {pod} route add default via 10.244.{number}.1"
    yield f"ip netns exec {node} iptables-restore --noflush <<'RULES'\n{RULES.format(n=number)}RULES"


def _way(node: str, backend: str, here: int, there: int) -> Iterator[str]:
    """Yield the way from one node to the other's pods."""
    if backend == "host-gw":
        yield f"ip -n {node} route add 10.244.{there}.0/24 via 172.18.0.{there + 1}"
        return
    vxlan = f"id 1 local 172.18.0.{here + 1} dev eth0 dstport 8472 nolearning"
    yield f"ip -n {node} link add flannel.1 address {VTEP_MAC[here]} mtu {MTU[backend]} up type vxlan {vxlan}"
    yield f"ip -n {node} address add 10.244.{here}.0/32 dev flannel.1"
    yield f"ip -n {node} neighbor add 10.244.{there}.0 lladdr {VTEP_MAC[there]} dev flannel.1 nud permanent"
    yield f"bridge -n {node} fdb add {VTEP_MAC[there]} dev flannel.1 dst 172.18.0.{there + 1} self permanent"
    yield f"ip -n {node} route add 10.244.{there}.0/24 via 10.244.{there}.0 dev flannel.1 onlink"
