"""What nodes, segments, routers, pods and checks must obey. Each rule yields what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator

from netlab import names
from netlab.topology.draft import Draft, pods_of
from netlab.topology.fields import PODS_MAX
from netlab.topology.findings import Finding, Loc, Suggester, counted, did_you_mean, listed, quote
from netlab.topology.model import Address, Check, CheckProtocol, Expect, Network, Node, Role, Router, Segment
from netlab.topology.network_rules import BRIDGE_PORTS_MAX, cidr_loc, mask_fits
from netlab.topology.pod_schema import PodSpec

# Interfaces of these names are there already, or cannot be (net/core/dev.c and the folders of /proc/sys/net).
RESERVED_SEGMENTS = frozenset({"lo", "all", "default"})
MACHINES = frozenset({"nodes", "external"})


def members(draft: Draft) -> list[tuple[str, Loc]]:
    """Return the name and place of everything that `netlab exec` takes, in the order of the file's sections."""
    everything = [(node.name, loc) for loc, node in draft.nodes]
    everything += [(router.name, loc) for loc, router in draft.routers]
    everything += [(pod.name, loc) for loc, pod in draft.pods]
    order = {section: number for number, section in enumerate(draft.partial.order)}
    return sorted(everything, key=lambda member: order.get(str(member[1][0]), 0))


def unique_names(draft: Draft) -> Iterator[Finding]:
    """Find names that two members have: they share the names that `netlab exec` takes."""
    seen: dict[str, Loc] = {}
    clashes: dict[tuple[Loc, Loc], list[str]] = {}
    for name, loc in members(draft):
        first = seen.setdefault(name, loc)
        if first != loc:
            clashes.setdefault((loc, first), []).append(name)
    for (loc, first), clashing in clashes.items():
        more = f" and {counted(len(clashing) - 1, 'other name')} of it are" if len(clashing) > 1 else " is"
        hint = "" if loc[0] == first[0] else "machines and pods share one set of names"
        yield Finding((*loc, "name"), f"{quote(clashing[0])}{more} taken", hint, first=first)


def segment_names(draft: Draft) -> Iterator[Finding]:
    """Find segments whose bridge would have a name that is taken in the fabric's namespace."""
    cables = {names.fabric_port(node.name, "eth0") for _, node in draft.nodes}
    cables |= {
        names.fabric_port(router.name, f"eth{i}") for _, router in draft.routers for i in range(len(router.segments))
    }
    for loc, segment in draft.segments:
        if segment.name in RESERVED_SEGMENTS or names.segment_bridge(segment.name) in cables:
            yield Finding(loc, f"{quote(segment.name)} is taken as the name of an interface", at_key=True)


def node_segments(draft: Draft) -> Iterator[Finding]:
    """Find machines on segments that do not exist, or on none."""
    known = {segment.name: None for _, segment in draft.segments}
    for loc, node in draft.nodes:
        if not node.segment:
            message = f"needs a `segment`, since there are several: {listed(known)}"
            yield Finding(loc, message, f"as in {{name: {node.name}, segment: {next(iter(known))}}}")
        elif node.segment not in known:
            yield _unknown_segment((*loc, "segment"), node.segment, known)


def _unknown_segment(loc: Loc, name: str, known: Collection[str]) -> Finding:
    return Finding(loc, f"no segment is called {quote(name)}{did_you_mean(name, known)} (there are: {listed(known)})")


def routers(draft: Draft) -> Iterator[Finding]:
    """Find routers that join nothing, or what does not exist."""
    known = {segment.name: None for _, segment in draft.segments}
    for loc, router in draft.routers:
        for i, name in enumerate(router.segments):
            if name not in known:
                yield _unknown_segment((*loc, i), name, known)
            elif name in router.segments[:i]:
                yield Finding((*loc, i), f"the segment {quote(name)} is named twice")
        if len(set(router.segments)) < 2:
            yield Finding(loc, "a router joins two segments or more")


def connected(draft: Draft) -> Iterator[Finding]:
    """Find segments that no chain of routers joins to the first."""
    first = draft.segments[0].value.name
    routers_of: dict[str, list[Router]] = defaultdict(list)
    for _, router in draft.routers:
        for name in router.segments:
            routers_of[name].append(router)
    reached, waiting = {first}, [first]
    while waiting:
        new = {name for router in routers_of[waiting.pop()] for name in router.segments} - reached
        reached |= new
        waiting += new
    for loc, segment in draft.segments:
        if segment.name not in reached:
            hint = f"add to underlay.routers, as in `r1: [{first}, {segment.name}]`"
            yield Finding(loc, f"no router joins this segment to {quote(first)}", hint, at_key=True)


def segment_room(draft: Draft) -> Iterator[Finding]:
    """Find segments with more machines than addresses or bridge ports. Routers have the first addresses."""
    on_segment: dict[str, list[Node]] = defaultdict(list)
    for _, node in draft.nodes:
        on_segment[node.segment].append(node)
    routers_on = _routers_on(draft)
    for loc, segment in draft.segments:
        nodes, joined = on_segment[segment.name], routers_on[segment.name]
        if len(nodes) + joined > BRIDGE_PORTS_MAX:
            crowd = counted(len(nodes) + joined, "machine")
            message = f"segment {segment.name} holds {crowd}, and a bridge has {BRIDGE_PORTS_MAX} ports"
            at = loc if draft.spec.underlay.segments else ("nodes",)
            yield Finding(at, message, "use several segments, joined by routers")
        for cidr in segment.cidrs:
            free, wanted = _free_addresses(cidr, nodes, joined), _wanted_addresses(cidr, nodes)
            if wanted > free:
                message = (
                    f"{cidr} has {counted(free, 'free address', 'free addresses')}, and {wanted} machines want one"
                )
                hint = "the network, the broadcast and the routers' addresses (.1 at least) are not free"
                yield Finding(cidr_loc(draft, segment, cidr) or ("nodes",), message, hint)


def _free_addresses(cidr: Network, nodes: Iterable[Node], routers: int) -> int:
    """Count the addresses of a segment that nobody has. The first is kept for a router that may come."""
    kept = {cidr.network_address + 1 + i for i in range(min(max(1, routers), cidr.num_addresses - 1))}
    kept |= {address for node in nodes for address in node.addresses if address in cidr}
    return max(0, cidr.num_addresses - (2 if cidr.version == 4 else 1) - len(kept))


def _wanted_addresses(cidr: Network, nodes: Iterable[Node]) -> int:
    """Count the machines that have chosen no address of this IP version."""
    return sum(all(address.version != cidr.version for address in node.addresses) for node in nodes)


def _routers_on(draft: Draft) -> Counter[str]:
    """Count the routers on each segment."""
    return Counter(name for _, router in draft.routers for name in set(router.segments))


def node_addresses(draft: Draft) -> Iterator[Finding]:
    """Find addresses that a machine cannot have on its segment."""
    segments = {segment.name: segment for _, segment in draft.segments}
    routers_on = _routers_on(draft)
    seen: dict[Address, Loc] = {}
    for loc, node in draft.nodes:
        for address in node.addresses:
            here = draft.address_loc(loc, address)
            segment = segments.get(node.segment)
            if segment is not None and (message := _unfit(segment, address, routers_on[segment.name])):
                yield Finding(here, message)
            elif seen.setdefault(address, here) != here:
                yield Finding(here, f"{address} is taken", first=seen[address])


def _unfit(segment: Segment, address: Address, routers: int) -> str:
    """Say why an address is none for a machine of a segment; empty when it is one."""
    cidr = next((cidr for cidr in segment.cidrs if cidr.version == address.version), None)
    if cidr is None:
        return f"{address} is IPv{address.version}, and segment {segment.name} has no such CIDR"
    if address not in cidr:
        return f"{address} is not in {cidr}, the CIDR of segment {segment.name}"
    if int(address) - int(cidr.network_address) in range(1, 1 + routers):
        return f"{address} is the address of a router of segment {segment.name}"
    return _network_or_broadcast(address, cidr)


def _network_or_broadcast(address: Address, cidr: Network) -> str:
    if address == cidr.network_address:
        return f"{address} is the network address of {cidr}"
    if cidr.version == 4 and address == cidr.broadcast_address:
        return f"{address} is the broadcast address of {cidr}"
    return ""


def pod_forms(draft: Draft) -> Iterator[Finding]:
    """Find fields of a pod that exclude each other, and names that are too long with their number."""
    spec: PodSpec
    total = 0
    for loc, spec in draft.partial.entries("pods"):
        several = "perNode" if spec.per_node is not None else "replicas" if spec.replicas is not None else ""
        count = pods_of(spec, len(draft.cluster_nodes))
        total += count
        if spec.per_node is not None and spec.replicas is not None:
            yield Finding((*loc, "perNode"), "cannot stand beside `replicas`", "keep one of the two")
        if spec.per_node is not None and spec.node is not None:
            yield Finding((*loc, "perNode"), "cannot stand beside `node`", "`replicas` puts several pods on one node")
        if spec.ip and several:
            yield Finding((*loc, "ip"), f"cannot stand beside `{several}`: one address is for one pod")
        if spec.ip and spec.host_network:
            yield Finding((*loc, "ip"), "cannot stand beside `hostNetwork`", "such a pod has its node's addresses")
        if several and len(longest := f"{spec.name}-{count}") > names.LABEL_MAX:
            message = f"{quote(longest)} is {len(longest)} characters long; at most {names.LABEL_MAX} are allowed"
            yield Finding((*loc, "name"), message)
    if total > PODS_MAX:
        yield Finding(("pods",), f"{total} pods are too many; at most {PODS_MAX} are allowed")


def pod_nodes(draft: Draft) -> Iterator[Finding]:
    """Find pods on nodes that do not exist."""
    cluster = [node.name for node in draft.cluster_nodes]
    known, did_you_mean = dict.fromkeys(cluster), Suggester(cluster)
    external = {node.name for _, node in draft.nodes if node.role is Role.EXTERNAL}
    spec: PodSpec
    for loc, spec in draft.partial.entries("pods"):
        if spec.node is None or spec.node in known or draft.partial.may_name(spec.node, MACHINES):
            continue
        if spec.node in external:
            message = f"{quote(spec.node)} is outside of the cluster: only its nodes carry pods"
            yield Finding((*loc, "node"), message, f"the nodes are {listed(known)}")
        else:
            there_are = f"(the nodes are: {listed(known)})"
            message = f"no node is called {quote(spec.node)}{did_you_mean(spec.node)} {there_are}"
            yield Finding((*loc, "node"), message)


def pod_addresses(draft: Draft) -> Iterator[Finding]:
    """Find addresses that a pod cannot have, or that ask for impossible podCIDRs."""
    clusters = {cidr.version: cidr for _, cidr in draft.cluster_cidrs}
    seen: dict[Address, Loc] = {}
    node_of: dict[Network, tuple[str, Loc]] = {}
    cidr_of: dict[tuple[str, int], tuple[Network, Loc]] = {}
    for loc, pod in draft.pods:
        spec = draft.spec.pods[int(loc[1])]
        if spec.host_network or spec.replicas is not None or spec.per_node is not None:
            continue  # pod_forms refuses it
        if spec.node is None and "pods" in draft.partial.broken:
            continue  # whose turn it is depends on what is left out
        for address in pod.addresses:
            here = draft.address_loc(loc, address)
            cluster = clusters.get(address.version)
            if cluster is None or address not in cluster:
                whole = listed([str(cidr) for cidr in clusters.values()])
                yield Finding(here, f"{address} is not in the clusterCIDR {whole}")
                continue
            if seen.setdefault(address, here) != here:
                yield Finding(here, f"{address} is taken", first=seen[address])
            if not mask_fits(draft, address.version):
                continue
            cidr = _pod_cidr(address, draft.node_mask(address.version))
            if message := _unfit_in_pod_cidr(address, cidr, cluster):
                yield Finding(here, message)
                continue
            node, first = node_of.setdefault(cidr, (pod.node, here))
            if node != pod.node:
                message = f"{address} is in the podCIDR {cidr} of node {node}, and the pod is on {pod.node}"
                yield Finding(here, message, first=first)
            held, first = cidr_of.setdefault((pod.node, address.version), (cidr, here))
            if held != cidr and node == pod.node:
                yield Finding(here, f"{address} is not in {held}, the podCIDR that node {pod.node} needs", first=first)


def _pod_cidr(address: Address, mask: int) -> Network:
    from ipaddress import ip_network

    return ip_network((address, mask), strict=False)


def _unfit_in_pod_cidr(address: Address, cidr: Network, cluster: Network) -> str:
    """Say why no pod can have an address of a podCIDR; empty when one can."""
    if cidr.network_address == cluster.network_address:
        return f"{address} is in {cidr}, the first podCIDR of {cluster}, which flannel hands to no node"
    if address == cidr.network_address + 1:
        return f"{address} is the address of the bridge (cni0) of the podCIDR {cidr}"
    return _network_or_broadcast(address, cidr)


def check_names(draft: Draft) -> Iterator[Finding]:
    """Find checks between what does not exist."""
    known = dict.fromkeys(name for name, _ in members(draft))
    numbered: dict[str, list[str]] = defaultdict(list)
    did_you_mean = Suggester(known)
    for loc, check in draft.checks:
        for field, name in (("from", check.source), ("to", check.target)):
            if name in known or draft.partial.may_name(name) or (field == "to" and _is_address(name)):
                continue
            if not numbered:
                for member in known:
                    numbered[member.rpartition("-")[0]].append(member)
            message, hint = f"no pod, node, router or external machine is called {quote(name)}", ""
            if field == "from" and _is_address(name):
                message = f"{quote(name)} is an address: a check goes out from a pod or a machine, by name"
            elif name in numbered:
                hint = f"there are {listed(numbered[name])}"
            else:
                resembles_address = field == "to" and ("." in name or ":" in name)
                message += (", and it is no IP address" if resembles_address else "") + did_you_mean(name)
            yield Finding((*loc, field), message, hint)


def _is_address(text: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def check_forms(draft: Draft) -> Iterator[Finding]:
    """Find checks that contradict themselves."""
    check: Check
    for loc, check in draft.checks:
        if check.protocol is CheckProtocol.TCP and check.size is not None:
            yield Finding((*loc, "size"), "cannot stand beside `tcp`", "the size is that of an ICMP echo request")
        if check.expect is Expect.TOO_BIG and check.size is None:
            yield Finding((*loc, "expect"), "'too-big' needs a `size`: the bytes of the packet that is too big")
        if check.size is not None and check.size < 48 and ":" in check.target:
            yield Finding((*loc, "size"), f"{check.size} is less than an ICMPv6 echo request has: at least 48")
