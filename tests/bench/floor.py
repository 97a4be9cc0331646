"""The floor: labs made in one process by rtnetlink messages packed by hand, with nothing that a tool would add.

    python floor.py lab RECIPE.json [CMD...]      the lab that netlab makes, object for object (`labs.recipe`)
    python floor.py classic PODS [CMD...]         N hosts on a bridge with addresses and no more (docs/bench-up.md)

CMD runs while the lab is up, outside the clock. Prints two times in seconds. Needs netlab's code for nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

CLONE_NEWNET, MS_BIND, MNT_DETACH = 0x40000000, 0x1000, 2
NEWLINK, DELLINK, SETLINK, NEWADDR, NEWROUTE = 16, 17, 19, 20, 24
CREATE, ACK, EXCL = 0x400, 0x4, 0x200
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_PROTINFO = 1, 3, 4, 10, 12
IFLA_LINKINFO, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 18, 27, 28, 31, 32
GROUP, PROTOCOL = 0x6E6C, 110  # netlab's marks
CABLES_AT_ONCE = 200  # keeps a batch below the default send buffer of 208 KiB

_libc = ctypes.CDLL(None, use_errno=True)
Request = tuple[int, int, bytes]  # type, flags, body


def syscall(name: str, *args: Any) -> None:
    """Call libc; raises OSError."""
    if getattr(_libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


# --- messages --------------------------------------------------------------------------------------------------------


def attr(kind: int, payload: bytes) -> bytes:
    """Pack an attribute."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def u32(kind: int, value: int) -> bytes:
    """Pack an attribute of 32 bits."""
    return struct.pack("=HHI", 8, kind, value)


def link(index: int, attributes: bytes = b"", *, up: bool = False, family: int = 0) -> bytes:
    """Pack an interface with its attributes; `up` raises it."""
    return struct.pack("=BxHiII", family, 0, index, up, up) + attributes


def named(name: str, mac: str, mtu: int) -> bytes:
    """Pack the attributes that every interface of a lab has."""
    address = attr(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    return attr(IFLA_IFNAME, name.encode() + b"\0") + address + u32(IFLA_MTU, mtu) + u32(IFLA_GROUP, GROUP)


def kind(name: bytes, details: bytes = b"") -> bytes:
    """Pack what makes an interface a veth or a bridge."""
    return attr(IFLA_LINKINFO, attr(1, name) + (attr(2, details) if details else b""))


def cable(index: int, here: bytes, master: int, peer_fd: int, there: bytes) -> Request:
    """Make a pair: this end on its bridge and up, the other as interface 2 of another namespace."""
    one_queue = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1)  # no RCU grace period, as in netlab
    peer = link(2, there + one_queue + u32(IFLA_NET_NS_FD, peer_fd))
    body = link(index, here + one_queue + u32(IFLA_MASTER, master) + kind(b"veth", attr(1, peer)), up=True)
    return NEWLINK, CREATE | EXCL, body


def address(index: int, text: str) -> Request:
    """Give an interface its address."""
    ip = ip_interface(text)
    packed = attr(2, ip.ip.packed) + attr(1, ip.ip.packed) + attr(4, ip.network.broadcast_address.packed)
    return NEWADDR, CREATE | EXCL, struct.pack("=BBBBI", socket.AF_INET, ip.network.prefixlen, 0, 0, index) + packed


def route(index: int, destination: str, gateway: str) -> Request:
    """Add a route by a gateway."""
    dst = ip_network(destination)
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, dst.prefixlen, 0, 0, 254, PROTOCOL, 0, 1, 0) + u32(4, index)
    body += attr(1, dst.network_address.packed) if dst.prefixlen else b""
    return NEWROUTE, CREATE | EXCL, body + attr(5, socket.inet_aton(gateway))


def raise_link(index: int) -> Request:
    """Bring an interface up."""
    return SETLINK, 0, link(index, up=True)


# --- namespaces ------------------------------------------------------------------------------------------------------


class Space:
    """A named network namespace: a netlink socket in it, a descriptor of it."""

    def __init__(self, name: str, sysctls: Sequence[tuple[str, str]] = (), *, make: bool = True) -> None:
        self.path = f"/run/netns/{name}"
        if make:
            syscall("unshare", CLONE_NEWNET)
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
            syscall("mount", b"/proc/thread-self/ns/net", self.path.encode(), None, MS_BIND, None)
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.bind((0, 0))
        for key, value in sysctls:
            with open(f"/proc/sys/{key}", "w") as file:
                file.write(value)

    def send(self, requests: Sequence[Request]) -> None:
        """Send requests in one system call and wait for the acknowledgement of the last."""
        last = len(requests)
        packed = [
            struct.pack("=IHHII", 16 + len(body), type_, flags | (5 if number == last else 1), number, 0) + body
            for number, (type_, flags, body) in enumerate(requests, 1)
        ]
        self.socket.send(b"".join(packed))
        answer = self.socket.recv(65536)
        number, code = struct.unpack_from("=I", answer, 8)[0], struct.unpack_from("=i", answer, 16)[0]
        if code:
            raise OSError(-code, f"request {number}: {os.strerror(-code)}")

    def close(self) -> None:
        """Let go of the namespace."""
        self.socket.close()
        os.close(self.fd)

    def unname(self) -> None:
        """Take the name away."""
        syscall("umount2", self.path.encode(), MNT_DETACH)
        os.unlink(self.path)


def wait_for_none(prefix: str) -> None:
    """Wait until this thread's namespace has no interface of such a name: the kernel ends namespaces later."""
    while any(name.startswith(prefix) for _, name in socket.if_nameindex()):
        time.sleep(0.001)


def take_away(spaces: Iterable[Space]) -> None:
    """Close and unname namespaces."""
    for space in spaces:
        space.close()
        space.unname()


# --- the lab that netlab makes ---------------------------------------------------------------------------------------

NO_IPV6 = ("net/ipv6/conf/all/disable_ipv6", "1")


def build_lab(recipe: dict[str, Any]) -> Callable[[], None]:
    """Make the lab of a recipe; return what takes it away."""
    mtu = recipe["mtu"]
    fabric = Space(recipe["fabric"], [NO_IPV6])
    node = Space(recipe["node"], [NO_IPV6, ("net/ipv4/ip_forward", "1")])
    rules = _load_rules(recipe["rules"])  # meanwhile, in the node: this thread is in it
    spaces = [Space(pod["netns"], [NO_IPV6]) for pod in recipe["pods"]]
    _underlay(recipe, fabric, node)
    batch = [bridge(3, recipe["bridge"], mtu), (SETLINK, 0, link(3, u32(IFLA_MTU, mtu)))]
    batch += [address(3, recipe["bridge"]["address"]), raise_link(1), raise_link(2)]
    batch += [address(2, recipe["uplink"]["address"])]
    for index, (pod, space) in enumerate(zip(recipe["pods"], spaces, strict=True), 4):
        here, there = named(pod["port"], pod["port_mac"], mtu), named("eth0", pod["mac"], mtu)
        batch += [cable(index, here, 3, space.fd, there), hairpin(index)]
        if len(batch) > CABLES_AT_ONCE:
            node.send(batch)
            batch = []
    node.send(batch or [raise_link(1)])
    for pod, space in zip(recipe["pods"], spaces, strict=True):
        routes = [route(2, destination, gateway) for destination, gateway in pod["routes"].items()]
        space.send([raise_link(1), raise_link(2), address(2, pod["address"]), *routes])
    rules.wait()
    return lambda: _remove_lab(fabric, [node, *spaces])


def _load_rules(text: str) -> subprocess.Popen[str]:
    loading = subprocess.Popen(["iptables-restore", "--noflush"], stdin=subprocess.PIPE, text=True)
    assert loading.stdin is not None
    loading.stdin.write(text)
    loading.stdin.close()
    return loading


def _underlay(recipe: dict[str, Any], fabric: Space, node: Space) -> None:
    uplink, mtu = recipe["uplink"], recipe["mtu"]
    here, there = named(uplink["port"], uplink["port_mac"], mtu), named("eth0", uplink["mac"], mtu)
    ports = [cable(3, here, 2, node.fd, there), (SETLINK, 0, link(2, u32(IFLA_MTU, mtu)))]
    fabric.send([raise_link(1), bridge(2, recipe["segment"], mtu), *ports])


def bridge(index: int, wanted: dict[str, str], mtu: int) -> Request:
    """Make a bridge, up."""
    return NEWLINK, CREATE | EXCL, link(index, named(wanted["name"], wanted["mac"], mtu) + kind(b"bridge"), up=True)


def hairpin(index: int) -> Request:
    """Let a bridge port send frames back to where they came from."""
    return SETLINK, 0, link(index, attr(IFLA_PROTINFO | 0x8000, attr(4, b"\1")), family=socket.AF_BRIDGE)


def _remove_lab(fabric: Space, members: list[Space]) -> None:
    syscall("setns", fabric.fd, CLONE_NEWNET)
    take_away(members)
    wait_for_none("n1-")
    take_away([fabric])


# --- N hosts and a bridge --------------------------------------------------------------------------------------------


def build_classic(pods: int) -> Callable[[], None]:
    """Make N hosts on a bridge of the namespace that this runs in; return what takes them away."""
    home = Space("", make=False)
    brief = u32(IFLA_GROUP, GROUP)
    home.send([(NEWLINK, CREATE | EXCL, link(0, attr(IFLA_IFNAME, b"br0\0") + kind(b"bridge"), up=True))])
    master = socket.if_nametoindex("br0")
    spaces = [Space(f"h{number}") for number in range(1, pods + 1)]
    syscall("setns", home.fd, CLONE_NEWNET)
    there = attr(IFLA_IFNAME, b"eth0\0")
    for start in range(0, pods, CABLES_AT_ONCE):
        chunk = enumerate(spaces[start : start + CABLES_AT_ONCE], start + 1)
        home.send(
            [cable(0, attr(IFLA_IFNAME, b"v%d\0" % number) + brief, master, space.fd, there) for number, space in chunk]
        )
    for number, space in enumerate(spaces, 1):
        text = f"10.0.{number // 250}.{number % 250 + 1}/16"
        space.send([raise_link(1), raise_link(2), address(2, text)])

    def remove() -> None:
        take_away(spaces)
        home.send([(DELLINK, 0, link(master))])
        wait_for_none("v")

    return remove


def main(what: str, argument: str, *meanwhile: str) -> None:
    """Build, run the given command, remove; print the times."""
    os.makedirs("/run/netns", exist_ok=True)
    recipe = json.loads(Path(argument).read_text()) if what == "lab" else None
    started = time.perf_counter()
    remove = build_lab(recipe) if recipe else build_classic(int(argument))
    made = time.perf_counter()
    if meanwhile:
        subprocess.run(meanwhile, check=True)
    doomed = time.perf_counter()
    remove()
    print(json.dumps({"up": made - started, "down": time.perf_counter() - doomed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
