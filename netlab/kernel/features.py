"""What this kernel and machine can do, what of netlab needs it, and how to get it.

Everything is found out by trying (`feature_probes`), in namespaces that end with the try. One thing is not tried: a
module that is installed but not loaded counts as available, because loading changes the machine (ipip adds tunl0 to
every namespace, dummy adds dummy0). Packet filters load what every call of their programs loads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from netlab.errors import NotSupported
from netlab.kernel import feature_probes as probes
from netlab.kernel import netns
from netlab.kernel.feature_probes import Finding, Probe
from netlab.kernel.userns import CAP_NET_ADMIN, CAP_SYS_ADMIN


class Kind(StrEnum):
    """What sort of thing a feature is, in the order in which they are shown."""

    PRIVILEGE = "privilege"
    LINK = "link type"
    QDISC = "queueing discipline"
    FILTER = "packet filter"
    MATCH = "iptables match"
    PROTOCOL = "protocol"
    TRACING = "tracing"
    PROGRAM = "program"
    LIMIT = "limit"


TRIED_IN_NAMESPACE = frozenset({Kind.LINK, Kind.QDISC, Kind.FILTER, Kind.MATCH})


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that this machine has or lacks. `detail` is what was found; `how_to_get` is meant for a shell."""

    name: str
    kind: Kind
    available: bool
    detail: str
    needed_by: str
    how_to_get: str


@dataclass(frozen=True, slots=True)
class _Row:
    """A feature and how to find out about it."""

    kind: Kind
    name: str
    probe: Probe
    needed_by: str
    how_to_get: str


def probe(kinds: Collection[Kind] = tuple(Kind)) -> tuple[Feature, ...]:
    """Find out about every feature of some kinds. Takes about 0.2 s for all, and never raises."""
    return tuple(_probe(row) for row in _table() if row.kind in kinds)


def require(name: str, needed_by: str) -> None:
    """Raise NotSupported, with how to get it, unless this one feature is available."""
    row = next(row for row in _table() if row.name == name)
    feature = _probe(row)
    if not feature.available:
        raise NotSupported(f"{row.kind} {name} ({feature.detail})", needed_by, feature.how_to_get)


def _table() -> list[_Row]:
    return [_Row(kind, *row) for kind, rows in _ROWS.items() for row in rows]


def _probe(row: _Row) -> Feature:
    finding = _find_in_namespace(row.probe) if row.kind in TRIED_IN_NAMESPACE else row.probe()
    how_to_get = finding.how_to_get or row.how_to_get
    return Feature(row.name, row.kind, finding.available, finding.detail, row.needed_by, how_to_get)


def _find_in_namespace(found: Probe) -> Finding:
    try:
        return netns.call_anonymous(found)
    except NotSupported as exc:
        return Finding(False, f"cannot be tried: {exc.message}")


# --- the table -------------------------------------------------------------------------------------------------------


def _module(module: str, option: str) -> str:
    return f"sudo modprobe {module}; or a kernel with {option}"


def _package(package: str, option: str = "") -> str:
    return f"sudo apt install {package}" + (f"; or a kernel with {option}" if option else "")


def _match(name: str, rule: str, needed_by: str) -> tuple[str, Probe, str, str]:
    found = probes.match(rule)
    return name, found, needed_by, _module(f"xt_{name}", f"CONFIG_NETFILTER_XT_MATCH_{name.upper()}")


def _program(name: str, package: str, needed_by: str) -> tuple[str, Probe, str, str]:
    return f"program {name}", probes.program(name), needed_by, _package(package)


_SUDO = "run netlab with sudo"
_NAMESPACES, _NEIGHBORS = "user.max_net_namespaces", "net.ipv4.neigh.default.gc_thresh3"
_TUNL0 = " (which adds tunl0 to every namespace, this machine's own too)"
_DUMMY0 = " (which adds dummy0 to this machine)"

_ROWS: dict[Kind, tuple[tuple[str, Probe, str, str], ...]] = {  # name, probe, needed by, how to get it
    Kind.PRIVILEGE: (
        ("root", probes.root, "what users cannot have: eBPF, this machine's own network", _SUDO),
        (
            "user namespaces",
            probes.user_namespaces,
            "running without root",
            "a kernel with CONFIG_USER_NS",
        ),
        ("CAP_NET_ADMIN", probes.capability(CAP_NET_ADMIN), "every lab", _SUDO),
        ("CAP_SYS_ADMIN", probes.capability(CAP_SYS_ADMIN), "every lab", _SUDO),
        ("network namespaces", probes.network_namespaces, "every lab", f"{_SUDO}; or a kernel with CONFIG_NET_NS"),
    ),
    Kind.LINK: (
        ("veth", probes.link("veth", peer={"ifname": "probe1"}), "every lab", _module("veth", "CONFIG_VETH")),
        ("bridge", probes.link("bridge"), "every lab", _module("bridge", "CONFIG_BRIDGE")),
        (
            "vxlan",
            probes.link("vxlan", vxlan_id=1, vxlan_port=8472),
            "backend vxlan",
            _module("vxlan", "CONFIG_VXLAN"),
        ),
        (
            "ipip",  # without an address it would be tunl0's twin, which the kernel refuses
            probes.unless_loading("ipip", probes.link("ipip", ipip_local="10.0.0.1"), _TUNL0),
            "backend ipip",
            _module("ipip", "CONFIG_NET_IPIP"),
        ),
        ("tun", probes.tun, "backend udp", "sudo modprobe tun; without root also sudo chmod 666 /dev/net/tun"),
        (
            "dummy",
            probes.unless_loading("dummy", probes.link("dummy"), _DUMMY0),
            "proxy ipvs, else a bridge",
            _module("dummy", "CONFIG_DUMMY"),
        ),
        (
            "wireguard",
            probes.unless_loading("wireguard", probes.link("wireguard")),
            "WireGuard inside a lab",
            _module("wireguard", "CONFIG_WIREGUARD"),
        ),
        (
            "vlan",
            probes.unless_loading("8021q", probes.vlan),
            "VLANs inside a lab",
            _module("8021q", "CONFIG_VLAN_8021Q"),
        ),
        (
            "vrf",
            probes.unless_loading("vrf", probes.link("vrf", vrf_table=10)),
            "VRFs inside a lab",
            _module("vrf", "CONFIG_NET_VRF"),
        ),
    ),
    Kind.QDISC: (
        (
            "netem",
            probes.unless_loading("sch_netem", probes.qdisc("netem", delay=1000)),
            "faults (delay, loss, reordering)",
            _module("sch_netem", "CONFIG_NET_SCH_NETEM"),
        ),
        (
            "tbf",
            probes.unless_loading("sch_tbf", probes.qdisc("tbf", rate="1mbit", burst=2048, latency="50ms")),
            "faults (a limited rate)",
            _module("sch_tbf", "CONFIG_NET_SCH_TBF"),
        ),
    ),
    Kind.FILTER: (
        (
            "iptables",
            probes.masquerade("iptables-restore"),
            "ipMasq with netfilter iptables; proxy iptables",
            _package("iptables", "CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_MASQUERADE"),
        ),
        (
            "ip6tables",
            probes.masquerade("ip6tables-restore"),
            "the same for IPv6",
            _package("iptables", "CONFIG_IP6_NF_NAT"),
        ),
        (
            "nft",
            probes.nft,
            "ipMasq with netfilter nftables; proxy nftables",
            _package("nftables", "CONFIG_NFT_MASQ"),
        ),
        ("ipset", probes.ipset, "proxy ipvs", _package("ipset", "CONFIG_IP_SET")),
        ("ipvs", probes.ipvs, "proxy ipvs", f"{_module('ip_vs', 'CONFIG_IP_VS')}, as a `netlab vm` has"),
        (
            "br_netfilter",
            probes.br_netfilter,
            "iptables rules between the pods of one node",
            _module("br_netfilter", "CONFIG_BRIDGE_NETFILTER"),
        ),
    ),
    Kind.MATCH: (
        _match("comment", "-m comment --comment netlab", "ipMasq with netfilter iptables"),
        _match("mark", "-m mark --mark 0x4000/0x4000", "ipMasq with netfilter iptables"),
        _match("statistic", "-m statistic --mode random --probability 0.5", "proxy iptables"),
        _match("addrtype", "-m addrtype --dst-type LOCAL", "proxy iptables"),
        _match("conntrack", "-m conntrack --ctstate NEW", "proxy iptables"),
        _match("recent", "-m recent --name netlab --rcheck --seconds 10", "proxy iptables (session affinity)"),
    ),
    Kind.PROTOCOL: (
        (
            "sctp",
            probes.unless_loading("sctp", probes.sctp),
            "SCTP ports of Services and pods",
            f"{_module('sctp', 'CONFIG_IP_SCTP')}, as a `netlab vm` has",
        ),
    ),
    Kind.TRACING: (
        ("ebpf", probes.ebpf, "traces with drop reasons", f"{_SUDO}, on a kernel with CONFIG_DEBUG_INFO_BTF"),
        ("tracefs", probes.tracefs, "traces with kernel stacks", f"{_SUDO}, on a kernel with CONFIG_FTRACE"),
    ),
    Kind.PROGRAM: (
        _program("ip", "iproute2", "looking around (ip netns exec)"),
        _program("bridge", "iproute2", "looking around (bridge fdb)"),
        _program("iptables-restore", "iptables", "netfilter iptables"),
        _program("ip6tables-restore", "iptables", "netfilter iptables, for IPv6"),
        _program("nft", "nftables", "netfilter nftables"),
        _program("ping", "iputils-ping", "looking around"),
        _program("tcpdump", "tcpdump", "looking around"),
        _program("conntrack", "conntrack", "looking at NAT"),
        _program("iperf3", "iperf3", "throughput benchmarks"),
    ),
    Kind.LIMIT: (
        (
            "max_net_namespaces",
            probes.sysctl(_NAMESPACES, enough=2000),
            "labs of 1,000 pods",
            f"sudo sysctl -w {_NAMESPACES}=10000",
        ),
        (
            "neighbors (gc_thresh3)",
            probes.sysctl(_NEIGHBORS, enough=4096),
            "labs where over 500 pods talk at once",
            f"sudo sysctl -w {_NEIGHBORS}=16384",
        ),
        ("open files", probes.open_files(enough=4096), "labs of 1,000 pods", "ulimit -Hn 65536, as root"),
    ),
}
