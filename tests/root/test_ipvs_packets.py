"""IPVS mode on the wire: who answers a client of a Service, and which source address it sees (facts.md 3.7, 4, 11.2).

One node with two pods behind it and a client in front, each a namespace; the pods' listeners are this process's.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest

from netlab.kernel import netns
from netlab.proxy.ipvs import IpvsProxier
from netlab.proxy.proxier import NodeTarget
from netlab.service.model import Endpoint, Policy, Protocol, ProxyNode, ServicePort
from netlab.topology.addresses import Network
from tests.root.proxy_nodes import run
from tests.unit.service_ports import NODE, NODE6, WEB
from tests.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("network")]

CLIENT, HOST, POD1, POD2 = (f"nl-ipvsp-{name}" for name in ("client", "n1", "p1", "p2"))
PODS = {POD1: ("10.244.1.5", "fd00:244:1::5"), POD2: ("10.244.1.6", "fd00:244:1::6")}
CLIENTS = ("172.18.0.1", "172.18.0.9")
GATEWAYS = ("10.244.1.1", "fd00:244:1::1")
VIP, BALANCER = "10.96.0.50", "203.0.113.7"
PORT, TARGET, NODE_PORT, OWN = 80, 8080, 30080, 9999
TIMEOUT = 3.0  # seconds: an answer takes milliseconds
SILENCE = 2.0  # seconds after which nothing is taken to come
ONE, TWO = (Endpoint(IPv4Address(PODS[pod][0]), TARGET, "n1") for pod in (POD1, POD2))
SERVICE = replace(WEB, endpoints=(ONE, TWO))
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


# --- the network -----------------------------------------------------------------------------------------------------


def _wire() -> None:
    """Connect the namespaces: pods as point-to-point neighbours of the node, the client on a network with it."""
    lines = {
        HOST: [
            f"link add client type veth peer name eth0 netns {CLIENT}",
            "address add 172.18.0.2/24 dev client",
            "address add fd01::2/64 dev client nodad",
            "link set client up",
            "link set lo up",
        ],
        CLIENT: [
            *("link set lo up", "link set eth0 up"),
            *(f"address add {address}/24 dev eth0" for address in CLIENTS),
            "address add fd01::1/64 dev eth0 nodad",
            *("route add default via 172.18.0.2", "route add default via fd01::2"),
        ],
    }
    for number, (pod, addresses) in enumerate(PODS.items()):
        device = f"pod{number}"
        lines[HOST] += [f"link add {device} type veth peer name eth0 netns {pod}", f"link set {device} up"]
        lines[pod] = ["link set lo up", "link set eth0 up"]
        for address, gateway in zip(addresses, GATEWAYS, strict=True):
            host = "128 dev {} nodad" if ":" in address else "32 dev {}"
            lines[HOST] += [f"address add {gateway}/{host.format(device)}", f"route add {address} dev {device}"]
            lines[pod] += [f"address add {address}/{host.format('eth0')}", f"route add {gateway} dev eth0"]
            lines[pod] += [f"route add default via {gateway} dev eth0"]
    for name, commands in lines.items():
        run(name, "ip", "-batch", "-", text="\n".join(commands) + "\n")


class Listeners(threading.Thread):
    """Answers every TCP connection and UDP datagram with the name of who was asked and the address that it saw."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._selector = selectors.DefaultSelector()
        self._wake, self._end = socket.socketpair()
        self._selector.register(self._end, selectors.EVENT_READ)
        self._open: list[socket.socket] = []
        places = [(pod, TARGET) for pod in PODS] + [(HOST, OWN)]
        for name, port in places:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                listener = netns.call(name, _listener, kind, port)
                self._selector.register(listener, selectors.EVENT_READ, name.removeprefix("nl-ipvsp-"))
                self._open.append(listener)

    def run(self) -> None:
        """Answer until told to end; a connection stays open, and each line on it is answered."""
        while True:
            for key, _ in self._selector.select():
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._end:
                    return
                if found.type == socket.SOCK_DGRAM:
                    _, peer = found.recvfrom(100)
                    found.sendto(_answer(key.data, peer), peer)
                elif found in self._open:
                    connection, _ = found.accept()
                    self._selector.register(connection, selectors.EVENT_READ, key.data)
                else:
                    self._serve(found, key.data)

    def _serve(self, connection: socket.socket, name: str) -> None:
        try:
            if connection.recv(100):
                connection.sendall(_answer(name, connection.getpeername()))
                return
        except OSError:
            pass
        self._selector.unregister(connection)
        connection.close()

    def close(self) -> None:
        """End the thread and close every socket."""
        self._wake.send(b"x")
        self.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake.close()
        self._selector.close()


def _listener(kind: socket.SocketKind, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6, kind)
    found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    found.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        found.listen(128)
    return found


def _answer(name: str, peer: tuple[str, int]) -> bytes:
    return f"{name} {peer[0].removeprefix('::ffff:')}".encode()


@pytest.fixture(scope="module")
def network(ipvs: None) -> Iterator[None]:
    names = (CLIENT, HOST, *PODS)
    netns.create(names, lambda _: None)
    try:
        _wire()
        listeners = Listeners()
        listeners.start()
        with closing(listeners):
            yield
    finally:
        netns.remove(names)


@contextmanager
def proxied(*ports: ServicePort, node: ProxyNode = NODE) -> Iterator[IpvsProxier]:
    """Have a proxier sync ports on the node, and take all of it away afterwards."""
    proxier = IpvsProxier(NodeTarget(HOST, "n1", (node, NODE6)))
    try:
        proxier.sync({port.key: port for port in ports})
        yield proxier
    finally:
        proxier.remove()


# --- asking ----------------------------------------------------------------------------------------------------------


def connect(source: str, address: str, port: int, bind: str = "") -> socket.socket:
    def inside() -> socket.socket:
        found = socket.socket(FAMILY[ip_address(address).version])
        try:
            found.settimeout(TIMEOUT if not bind else SILENCE)
            if bind:
                found.bind((bind, 0))
            found.connect((address, port))
        except OSError:
            found.close()
            raise
        return found

    return netns.call(source, inside)


def say(connection: socket.socket) -> str:
    connection.sendall(b"?")
    return connection.recv(100).decode()


def ask(source: str, address: str, port: int = PORT, bind: str = "") -> str:
    """Return "POD SOURCE" as the pod saw it, or "refused", or "silence"."""
    try:
        with connect(source, address, port, bind) as connection:
            return say(connection)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"


def ask_udp(source: str, address: str, port: int = PORT) -> str:
    with connected_udp(source, address, port) as found:
        try:
            found.send(b"?")
            return found.recv(100).decode()
        except ConnectionRefusedError:
            return "refused"


def connected_udp(source: str, address: str, port: int) -> socket.socket:
    def inside() -> socket.socket:
        found = socket.socket(FAMILY[ip_address(address).version], socket.SOCK_DGRAM)
        found.settimeout(TIMEOUT)
        found.connect((address, port))
        return found

    return netns.call(source, inside)


# --- who answers, and whom it saw ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (CLIENT, {"p1 10.244.1.1", "p2 10.244.1.1"}),  # not of the cluster: masqueraded
        (HOST, {"p1 10.244.1.1", "p2 10.244.1.1"}),
        (POD1, {"p1 10.244.1.1", "p2 10.244.1.5"}),  # itself: hairpin, masqueraded
    ],
)
def test_cluster_ip(source: str, wanted: set[str]) -> None:
    with proxied(SERVICE):
        assert {ask(source, VIP) for _ in range(4)} == wanted


def test_connections_go_round() -> None:
    with proxied(SERVICE):
        answers = [ask(CLIENT, VIP).split()[0] for _ in range(20)]
    assert Counter(answers) == {"p1": 10, "p2": 10}


def test_udp() -> None:
    port = replace(SERVICE, protocol=Protocol.UDP)
    with proxied(port) as proxier:
        assert {ask_udp(POD1, VIP) for _ in range(4)} == {"p1 10.244.1.1", "p2 10.244.1.5"}
        proxier.sync({port.key: replace(port, endpoints=(TWO,))})
        assert {ask_udp(POD1, VIP) for _ in range(4)} == {"p2 10.244.1.5"}


def test_ipv6() -> None:
    ends = tuple(Endpoint(ip_address(PODS[pod][1]), TARGET, "n1") for pod in PODS)
    port = replace(WEB, cluster_ip=ip_address("fd00:96::50"), endpoints=ends, node_port=NODE_PORT, affinity=60)
    with proxied(port):
        assert len({ask(CLIENT, "fd00:96::50").split()[0] for _ in range(4)}) == 1
        assert ask(CLIENT, "fd01::2", NODE_PORT).split()[0] in {"p1", "p2"}
        assert ask(POD1, "fd00:96::50").split()[0] in {"p1", "p2"}
    with proxied(replace(port, affinity=0)):
        assert {ask(POD1, "fd00:96::50") for _ in range(4)} == {"p1 fd00:244:1::1", "p2 fd00:244:1::5"}


@pytest.mark.parametrize(
    ("policy", "endpoints", "wanted"),
    [
        (Policy.CLUSTER, (ONE, TWO), {"p1 10.244.1.1", "p2 10.244.1.1"}),
        (Policy.LOCAL, (ONE, replace(TWO, node="n2")), {"p1 172.18.0.1"}),
        (Policy.LOCAL, (replace(TWO, node="n2"),), {"p2 172.18.0.1"}),  # the other modes drop it (facts.md 11.2)
    ],
)
def test_node_port(policy: Policy, endpoints: tuple[Endpoint, ...], wanted: set[str]) -> None:
    with proxied(replace(SERVICE, node_port=NODE_PORT, external_policy=policy, endpoints=endpoints)):
        assert {ask(CLIENT, "172.18.0.2", NODE_PORT) for _ in range(4)} == wanted
        assert ask(HOST, "127.0.0.1", NODE_PORT) == "refused"  # not in this mode


def test_external_ip_and_load_balancer_with_source_ranges() -> None:
    port = replace(
        SERVICE,
        external_ips=(IPv4Address("192.0.2.9"),),
        load_balancer_ips=(IPv4Address(BALANCER),),
        source_ranges=(IPv4Network("172.18.0.8/29"),),
    )
    with proxied(port):
        assert ask(CLIENT, "192.0.2.9", bind=CLIENTS[0]).split()[1] == "10.244.1.1"
        assert ask(CLIENT, BALANCER, bind=CLIENTS[1]).split()[1] == "10.244.1.1"
        assert ask(CLIENT, BALANCER, bind=CLIENTS[0]) == "silence"


@pytest.mark.parametrize("everywhere", [IPv4Network("0.0.0.0/0")])
def test_a_source_range_of_all_addresses_lets_everybody_in(everywhere: Network) -> None:
    with proxied(replace(SERVICE, load_balancer_ips=(IPv4Address(BALANCER),), source_ranges=(everywhere,))):
        assert [ask(CLIENT, BALANCER, bind=address)[:1] for address in CLIENTS] == ["p", "p"]


def test_affinity_keeps_a_client_with_one_pod() -> None:
    with proxied(replace(SERVICE, affinity=60)):
        assert len({ask(CLIENT, VIP, bind=CLIENTS[0]) for _ in range(6)}) == 1
        assert len({ask(CLIENT, VIP, bind=CLIENTS[1]) for _ in range(6)}) == 1


def test_affinity_ends_when_a_client_was_away_for_its_timeout() -> None:
    """Nothing here is by chance: with no time left the next pod in turn is chosen.

    By UDP, whose connections end after a second: as long as the kernel has one, TCP's TIME_WAIT too, it keeps the
    client's affinity (facts.md 4.2).
    """
    with proxied(replace(SERVICE, protocol=Protocol.UDP, affinity=2)):
        run(HOST, "ipvsadm", "--set", "0", "0", "1")
        first = ask_udp(CLIENT, VIP)
        assert {ask_udp(CLIENT, VIP) for _ in range(5)} == {first}
        assert VIP in run(HOST, "ipvsadm", "-Lnc")
        until(lambda: VIP not in run(HOST, "ipvsadm", "-Lnc"))
        assert ask_udp(CLIENT, VIP).split()[0] == ({"p1", "p2"} - {first.split()[0]}).pop()


# --- somebody else's hand --------------------------------------------------------------------------------------------


def test_a_udp_flow_that_began_while_virtual_servers_were_gone() -> None:
    """Its entry says that the node itself is meant, and would be kept alive by every further packet (facts.md 3.9)."""
    with proxied(replace(SERVICE, protocol=Protocol.UDP, endpoints=(ONE,))) as proxier:
        run(HOST, "ipvsadm", "-C")
        with connected_udp(CLIENT, VIP, PORT) as client:
            client.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                client.recv(100)
            assert not proxier.is_intact()
            proxier.resync()
            client.send(b"?")
            assert client.recv(100) == b"p1 10.244.1.1"  # masqueraded, too


def test_connections_are_no_sign_of_somebody_else() -> None:
    with proxied(SERVICE) as proxier, connect(CLIENT, VIP, PORT) as connection:
        signs = proxier._opened.signs.read()  # type: ignore[union-attr]
        assert say(connection)
        with connect(CLIENT, VIP, PORT):
            assert proxier._opened.signs.read() == signs  # type: ignore[union-attr]


# --- who is refused --------------------------------------------------------------------------------------------------


def test_without_endpoints_a_client_is_refused() -> None:
    none = replace(SERVICE, endpoints=(), node_port=NODE_PORT)
    with proxied(none) as proxier:
        assert ask(CLIENT, VIP) == ask(CLIENT, "172.18.0.2", NODE_PORT) == ask(POD1, VIP) == "refused"
        proxier.sync({none.key: replace(SERVICE, endpoints=(ONE,))})
        assert ask(POD2, VIP) == "p1 10.244.1.6"


def test_a_service_address_answers_nothing_but_its_ports() -> None:
    """Neither ping nor what the node itself listens on (kubernetes#72236)."""
    with proxied(SERVICE):
        assert ask(CLIENT, "172.18.0.2", OWN).startswith("n1 ")
        assert ask(CLIENT, VIP, OWN) == ask(CLIENT, VIP, 81) == "refused"
        argv = ("ping", "-n", "-c1", "-W2", VIP)
        ping = netns.call(CLIENT, lambda: subprocess.run(argv, capture_output=True, text=True, check=False))
        assert ping.returncode == 1
        assert "Destination Port Unreachable" in ping.stdout


# --- servers that go -------------------------------------------------------------------------------------------------


def test_an_open_connection_outlives_its_endpoint() -> None:
    with proxied(replace(SERVICE, endpoints=(ONE,))) as proxier, connect(CLIENT, VIP, PORT) as connection:
        assert say(connection).startswith("p1 ")
        proxier.sync({SERVICE.key: replace(SERVICE, endpoints=(TWO,))})
        assert "10.244.1.5:8080 -m -w 0" in run(HOST, "ipvsadm", "-Sn")
        assert proxier.tick(0.0) == 60.0
        assert say(connection).startswith("p1 ")
        assert {ask(CLIENT, VIP).split()[0] for _ in range(4)} == {"p2"}
        assert proxier.tick(60.0) == 120.0  # still open
        assert say(connection).startswith("p1 ")
        proxier.sync({SERVICE.key: SERVICE})  # back again: made anew
        assert "10.244.1.5:8080 -m -w 1" in run(HOST, "ipvsadm", "-Sn")
        assert proxier.tick(120.0) is None
        assert say(connection).startswith("p1 ")
