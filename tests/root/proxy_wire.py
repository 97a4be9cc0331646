"""A node with a client outside and two pods, each in a namespace, wired by hand; servers that say who asked them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from netlab.kernel import netns
from tests.root.proxy_nodes import NAME, nodes, run

CLIENT, POD1, POD2 = "nl-proxy-client", "nl-proxy-pod1", "nl-proxy-pod2"
LINKS = {  # namespace -> (its addresses, the node's)
    CLIENT: (("172.18.0.9/24", "172.18.0.10/24"), "172.18.0.2/24"),
    POD1: (("10.244.1.2/30",), "10.244.1.1/30"),
    POD2: (("10.244.1.6/30",), "10.244.1.5/30"),
}
ADDRESS = {name: own[0].partition("/")[0] for name, (own, _) in LINKS.items()} | {NAME: "172.18.0.2"}
GATEWAY = {name: gateway.partition("/")[0] for name, (_, gateway) in LINKS.items()}
PORT = 8080
PATIENCE = 0.4  # seconds that a client waits: nothing here is further than a veth away


@contextmanager
def wired() -> Iterator[None]:
    """Make the namespaces, their links and servers in both pods."""
    with nodes(NAME, *LINKS), ExitStack() as stack:
        run(NAME, "ip", "link", "set", "lo", "up")
        for number, (name, (own, gateway)) in enumerate(LINKS.items()):
            run(NAME, "ip", "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run(NAME, "ip", "addr", "add", gateway, "dev", f"to{number}")
            run(NAME, "ip", "link", "set", f"to{number}", "up")
            for address in own:
                run(name, "ip", "addr", "add", address, "dev", "eth0")
            run(name, "ip", "link", "set", "lo", "up")
            run(name, "ip", "link", "set", "eth0", "up")
            run(name, "ip", "route", "add", "default", "via", GATEWAY[name])
        run(NAME, "ip", "route", "add", "default", "via", ADDRESS[CLIENT])  # where what is not translated is lost
        for setting in ("ip_forward=1", "icmp_ratelimit=0"):
            run(NAME, "sysctl", "-w", f"net.ipv4.{setting}")
        for name in (POD1, POD2):
            stack.enter_context(_serving(name))
        yield


@contextmanager
def _serving(name: str) -> Iterator[None]:
    """Answer on TCP and UDP with the pod's namespace and the client's address."""
    tcp, udp = netns.call(name, _listen)

    def serve_tcp() -> None:
        while True:
            try:
                connection, peer = tcp.accept()
            except OSError:
                return
            with connection:
                connection.sendall(f"{name} {peer[0]}".encode())

    def serve_udp() -> None:
        while True:
            received, peer = udp.recvfrom(100)
            if not received:  # shut down
                return
            udp.sendto(f"{name} {peer[0]}".encode(), peer)

    threads = [threading.Thread(target=serve, daemon=True) for serve in (serve_tcp, serve_udp)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for opened in (tcp, udp):
            with suppress(OSError):  # "not connected", but it wakes who waits
                opened.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        tcp.close()
        udp.close()


def _listen() -> tuple[socket.socket, socket.socket]:
    run_here = socket.create_server(("", PORT))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", PORT))
    return run_here, udp


def ask(source: str, to: str, port: int, *, address: str = "") -> str:
    """Connect by TCP; return "SERVER SOURCE" as the server tells it, "refused", or "lost"."""

    def connect() -> str:
        try:
            bound = (address, 0) if address else None
            with socket.create_connection((to, port), timeout=PATIENCE, source_address=bound) as connection:
                return connection.recv(100).decode()
        except TimeoutError:
            return "lost"
        except ConnectionRefusedError:
            return "refused"

    return netns.call(source, connect)


def open_udp(source: str) -> socket.socket:
    """Open a client's UDP socket, whose packets are of one flow."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", 5353))
        made.settimeout(PATIENCE)
        return made

    return netns.call(source, opened)


def ask_udp(client: socket.socket, to: str, port: int) -> str:
    """Send a datagram and return the answer as `ask` does."""
    client.sendto(b"who?", (to, port))
    try:
        return client.recv(100).decode()
    except TimeoutError:
        return "lost"
