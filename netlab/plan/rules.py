"""flannel's packet-filter rules of one node: masquerade and forward (facts.md 1.14). Pure text, exactly as listed back.

A pod's packet keeps its source inside the cluster and takes the node's on its way out of it. FORWARD accepts what comes
from or goes to pods even where its policy is DROP; with nftables that holds for flannel's own chain only, because an
accept there does not end the packet's way through other tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netlab.plan.objects import Ruleset
from netlab.topology.model import Netfilter, Network

MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
TOOLS = {4: "iptables", 6: "ip6tables"}
MASQUERADE_MARK = "0x4000/0x4000"  # kube-proxy's: it has decided already


def tools(netfilter: Netfilter, families: Iterable[int]) -> list[str]:
    """Return the tools that a lab's rules are written with."""
    return ["nft"] if netfilter is Netfilter.NFTABLES else [TOOLS[family] for family in families]


def rulesets(netfilter: Netfilter, pod_cidr: Network, cluster_cidr: Network, *, ip_masq: bool) -> Iterator[Ruleset]:
    """Yield the rules of one node for one IP version."""
    if netfilter is Netfilter.NFTABLES:
        yield _nftables(pod_cidr, cluster_cidr, ip_masq=ip_masq)
        return
    if ip_masq:
        yield _iptables_masquerade(pod_cidr, cluster_cidr)
    yield _iptables_forward(cluster_cidr)


def _iptables_masquerade(pod_cidr: Network, cluster_cidr: Network) -> Ruleset:
    masq = '-m comment --comment "flanneld masq"'
    return Ruleset(
        tool=TOOLS[pod_cidr.version],
        table="nat",
        chain="FLANNEL-POSTRTG",
        rules=(
            f"-m mark --mark {MASQUERADE_MARK} {masq} -j RETURN",
            f"-s {pod_cidr} -d {cluster_cidr} {masq} -j RETURN",
            f"-s {cluster_cidr} -d {pod_cidr} {masq} -j RETURN",
            f"! -s {cluster_cidr} -d {pod_cidr} {masq} -j RETURN",
            f"-s {cluster_cidr} ! -d {MULTICAST[pod_cidr.version]} {masq} -j MASQUERADE --random-fully",
            f"! -s {cluster_cidr} -d {cluster_cidr} {masq} -j MASQUERADE --random-fully",
        ),
        jump=f"POSTROUTING {masq} -j FLANNEL-POSTRTG",
    )


def _iptables_forward(cluster_cidr: Network) -> Ruleset:
    forward = '-m comment --comment "flanneld forward"'
    return Ruleset(
        tool=TOOLS[cluster_cidr.version],
        table="filter",
        chain="FLANNEL-FWD",
        rules=(f"-s {cluster_cidr} {forward} -j ACCEPT", f"-d {cluster_cidr} {forward} -j ACCEPT"),
        jump=f"FORWARD {forward} -j FLANNEL-FWD",
    )


def _nftables(pod_cidr: Network, cluster_cidr: Network, *, ip_masq: bool) -> Ruleset:
    version = pod_cidr.version
    ip = "ip" if version == 4 else "ip6"
    lines = [
        "chain forward {",
        "type filter hook forward priority filter; policy accept;",
        f"{ip} saddr {cluster_cidr} accept",
        f"{ip} daddr {cluster_cidr} accept",
        "}",
    ]
    if ip_masq:
        lines += [
            "chain postrtg {",
            "type nat hook postrouting priority srcnat; policy accept;",
            "meta mark 0x00004000 return",
            f"{ip} saddr {pod_cidr} {ip} daddr {cluster_cidr} return",
            f"{ip} saddr {cluster_cidr} {ip} daddr {pod_cidr} return",
            f"{ip} saddr != {pod_cidr} {ip} daddr {cluster_cidr} return",
            f"{ip} saddr {cluster_cidr} {ip} daddr != {MULTICAST[version]} masquerade fully-random",
            f"{ip} saddr != {cluster_cidr} {ip} daddr {cluster_cidr} masquerade fully-random",
            "}",
        ]
    return Ruleset("nft", f"{ip} flannel-ipv{version}", "", tuple(lines))


# --- text for the tools ----------------------------------------------------------------------------------------------


def restore_input(changes: list[tuple[Ruleset | None, Ruleset | None]]) -> str:
    """Return the input for `iptables-restore --noflush` that turns each old ruleset into the new one, atomically.

    Declaring a chain (":CHAIN") makes it or empties it; nothing else in the table is touched.
    """
    lines = []
    for table in sorted({(new or old).table for old, new in changes}):  # type: ignore[union-attr]
        lines.append(f"*{table}")
        for old, new in changes:
            if (new or old).table == table:  # type: ignore[union-attr]
                lines += _restore_lines(old, new)
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def _restore_lines(old: Ruleset | None, new: Ruleset | None) -> Iterator[str]:
    chain = (new or old).chain  # type: ignore[union-attr]
    yield f":{chain} - [0:0]"
    stale = old.jump.splitlines() if old and (new is None or old.jump != new.jump) else []
    yield from (f"-D {jump}" for jump in stale)
    if new is None:
        yield f"-X {chain}"
        return
    yield from (f"-A {chain} {rule}" for rule in new.rules)
    if old is None or old.jump != new.jump:
        yield f"-A {new.jump}"


def nft_input(old: Ruleset | None, new: Ruleset | None) -> str:
    """Return the input for `nft -f -` that replaces a whole table in one transaction."""
    lines = [f"delete table {old.table}"] if old else []
    if new:
        lines += [f"table {new.table} {{", *new.rules, "}"]
    return "\n".join([*lines, ""])
