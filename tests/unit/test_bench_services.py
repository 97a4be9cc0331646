"""What `bench services` gives the bare tools of mode ipvs, and how it names its options inside a VM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench import __main__ as command_line
from tests.bench import bare_tools, in_vm, modes
from tests.bench.services import NODE

PORTS = {port.key: port for port in modes.ports(2, 3)}  # 10.128.0.1 to 6, of which 10.128.0.1 and 4 are on n1


def test_ipvs_gets_sets_rules_servers_and_addresses_in_this_order() -> None:
    sets, rules, servers, addresses = bare_tools.script("ipvs", NODE).take(PORTS)
    assert [call.argv[0] for call in (sets, rules, servers, addresses)] == [
        "ipset",
        "iptables-nft-restore",
        "ipvsadm",
        "ip",
    ]
    assert sets.text.startswith("create KUBE-LOOP-BACK hash:ip,port,ip ")
    assert "add KUBE-CLUSTER-IP 10.96.0.2,tcp:80 -exist\n" in sets.text
    assert ":KUBE-SERVICES - [0:0]\n" in rules.text
    assert "-I PREROUTING " in rules.text
    first = servers.text.index("-A -t 10.96.0.1:80 -s rr\n")
    assert servers.text[first:].splitlines()[1:4] == [
        f"-a -t 10.96.0.1:80 -r 10.128.0.{number}:8080 -m -w 1" for number in (1, 2, 3)
    ]
    assert set(addresses.text.splitlines()[1:]) == {
        f"address add 10.96.0.{number}/32 dev kube-ipvs0" for number in (1, 2)
    }


def test_one_ipvs_server_goes_and_comes() -> None:
    script = bare_tools.script("ipvs", NODE)
    script.take(PORTS)
    one = next(iter(PORTS.values()))
    assert script.take({one.key: one}) == []
    gone, back = (script.take({one.key: replace(one, endpoints=one.endpoints[start:])}) for start in (1, 0))
    place = "-t 10.96.0.1:80 -r 10.128.0.1:8080"
    hairpin = "KUBE-LOOP-BACK 10.128.0.1,tcp:8080,10.128.0.1 -exist\n"
    assert [call.text for call in gone] == [f"del {hairpin}", f"-e {place} -m -w 0\n-d {place}\n"]
    assert [call.text for call in back] == [f"add {hairpin}", f"-a {place} -m -w 1\n"]


@pytest.mark.parametrize("variant", modes.VARIANTS)
def test_a_script_goes_on_from_what_was_taken(variant: str) -> None:
    script = bare_tools.script(variant, NODE)
    whole = sum(len(call.text) for call in script.take(PORTS))
    one = next(iter(PORTS.values()))
    changed = script.take({one.key: replace(one, endpoints=one.endpoints[1:])})
    assert 0 < sum(len(call.text) for call in changed) < whole / 3
    assert all("svc-1" not in call.text for call in changed)


def test_a_vm_is_given_the_same_options() -> None:
    words = ["services", "--rounds", "2", "--seed", "7", "-n", "10,20", "--variants", "nftables,ipvs"]
    options = vars(command_line._parser().parse_args([*words, "--endpoints", "2", "--vm"]))
    assert options["vm"] is True
    found = in_vm.words("services", options, figures=False)
    assert found == [*words, "--endpoints", "2", "--bound", "60.0"]
    packets = vars(command_line._parser().parse_args(["first-packet", "-n", "10", "--vm", "--plot", "x.png"]))
    assert in_vm.words("first-packet", packets, figures=True)[-2:] == ["--json", in_vm.FIGURES]
