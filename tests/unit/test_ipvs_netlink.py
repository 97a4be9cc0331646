"""IPVS requests byte for byte as pyroute2 reads them: its classes are the second opinion on linux/ip_vs.h."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from pyroute2.netlink.generic.ipvs import ipvsmsg

from netlab.proxy.ipvs_device import settings
from netlab.proxy.ipvs_netlink import Load, idle, message
from netlab.proxy.ipvs_signs import without_connections
from netlab.service.ipvs import Flag, RealServer, VirtualKey, VirtualServer
from netlab.service.ipvs_change import Command, Step
from netlab.service.model import Protocol

V4 = VirtualServer(VirtualKey(IPv4Address("10.96.0.50"), Protocol.TCP, 80), "wrr", Flag.PERSISTENT, 300)
V6 = VirtualServer(VirtualKey(IPv6Address("fd00:96::50"), Protocol.UDP, 53))


def decoded(step: Step) -> Any:
    request = message(32, step)
    header = struct.pack("=IHHII", 16 + len(request.body), request.type, request.flags, 1, 0)
    found = ipvsmsg(header + request.body)
    found.decode()
    assert found["version"] == 1
    return found


def fields(message: Any, kind: str) -> dict[str, Any]:
    return {name.split("_ATTR_")[1]: value for name, value in message.get_attr(f"IPVS_CMD_ATTR_{kind}")["attrs"]}


def test_a_virtual_server() -> None:
    found = decoded(Step(Command.NEW_SERVICE, V4))
    assert found["cmd"] == 1
    service = fields(found, "SERVICE")
    flags = service.pop("FLAGS")
    assert (flags["flags"], flags["mask"]) == (1, 0xFFFFFFFF)
    assert service == {
        "AF": 2,
        "PROTOCOL": 6,
        "ADDR": "10.96.0.50",
        "PORT": 80,
        "SCHED_NAME": "wrr",
        "TIMEOUT": 300,
        "NETMASK": "255.255.255.255",
    }


def test_an_ipv6_virtual_server_has_a_prefix_length_where_ipv4_has_a_netmask() -> None:
    service = fields(decoded(Step(Command.SET_SERVICE, V6)), "SERVICE")
    assert (service["AF"], service["PROTOCOL"], service["ADDR"], service["PORT"]) == (10, 17, "fd00:96::50", 53)
    assert service["NETMASK"] == "128.0.0.0"  # 128 in the host's order, as pyroute2 shows it


@pytest.mark.parametrize("command", [Command.NEW_DEST, Command.SET_DEST])
def test_a_real_server_is_reached_by_nat(command: Command) -> None:
    found = decoded(Step(command, V4, RealServer(IPv4Address("10.244.1.5"), 8080), 0))
    assert found["cmd"] == command
    assert fields(found, "SERVICE") == {"AF": 2, "PROTOCOL": 6, "ADDR": "10.96.0.50", "PORT": 80}
    dest = found.get_attr("IPVS_CMD_ATTR_DEST")
    assert [name.split("_ATTR_")[1] for name, _ in dest["attrs"]] == [
        *("ADDR", "PORT", "FWD_METHOD", "WEIGHT", "U_THRESH", "L_THRESH")
    ]
    values = dict(dest["attrs"])
    assert values["IPVS_DEST_ATTR_PORT"] == 8080
    assert (values["IPVS_DEST_ATTR_FWD_METHOD"], values["IPVS_DEST_ATTR_WEIGHT"]) == (0, 0)


def test_deleting_names_no_more_than_the_place() -> None:
    assert fields(decoded(Step(Command.DEL_SERVICE, V4)), "SERVICE").keys() == {"AF", "PROTOCOL", "ADDR", "PORT"}
    found = decoded(Step(Command.DEL_DEST, V4, RealServer(IPv4Address("10.244.1.5"), 8080)))
    assert [name.split("_ATTR_")[1] for name, _ in found.get_attr("IPVS_CMD_ATTR_DEST")["attrs"]] == ["ADDR", "PORT"]


def test_idle_is_without_weight_and_connections() -> None:
    a, b, c, d = (RealServer(IPv4Address(f"10.244.1.{number}"), 80) for number in range(1, 5))
    loads = [(a, Load(0, 0, 0)), (b, Load(0, 1, 0)), (c, Load(0, 0, 1)), (d, Load(1, 0, 0))]
    assert idle(loads) == {a}


@pytest.mark.parametrize(
    ("release", "wanted"),
    [("6.1.0-56-cloud-amd64", None), ("5.9.0", None), ("5.8.18", "0"), ("4.1", "0"), ("4.0.9", None), ("odd", None)],
)
def test_conn_reuse_mode_is_for_some_kernels(release: str, wanted: str | None) -> None:
    assert settings(release, [4], strict_arp=False).get("net/ipv4/vs/conn_reuse_mode") == wanted


def test_sysctls() -> None:
    assert "net/ipv4/conf/all/arp_ignore" not in settings("6.1", [4], strict_arp=False)
    found = settings("6.1", [4, 6], strict_arp=True)
    assert [found[f"net/ipv4/conf/all/arp_{name}"] for name in ("ignore", "announce")] == ["1", "2"]
    assert found["net/ipv6/conf/all/forwarding"] == "1"


TABLE = b"""\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600032:0050 rr persistent 60 FFFFFFFF
  -> 0AF40105:1F90      Masq    1      %d          %d
TCP  [fd00:0096:0000:0000:0000:0000:0000:0050]:0050 rr persistent 60 00000080
  -> [fd00:0244:0001:0000:0000:0000:0000:0005]:1F90      Masq    1      0          0
"""  # linux/net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_info_seq_show


def test_connections_are_left_out_of_the_kernels_table_and_nothing_else() -> None:
    signs = without_connections(TABLE % (0, 0))
    assert without_connections(TABLE % (17, 123456)) == signs
    assert signs.splitlines()[4] == b"  -> 0AF40105:1F90      Masq    1"
    for part in (b" rr ", b" 60 FF", b" 60 00000080", b"Masq    1"):
        assert part in signs
