"""The kinds of value that a topology file holds: names, addresses, CIDRs, and the short forms of lists.

A validator here puts one value into its one normal form or says what is wrong with it; what several fields together
must obey is in the rules modules. Short forms are undone before pydantic looks, so its error paths name list entries
by number whichever way they were written (`document.Document.find` knows that).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from netlab.topology.addresses import Address, Network
from netlab.topology.findings import quote
from netlab.topology.service import NODE_PORTS

NODES_MAX = 10_000
PODS_MAX = 100_000
ONE_PER_FAMILY_MAX = 8  # more are not even looked at
MTU_MAX = 65535  # of veth and bridge (linux/if_ether.h: ETH_MAX_MTU)
MTU_MIN = 576  # RFC 791: what every IPv4 host must accept
MTU_MIN_IPV6 = 1280  # RFC 8200 section 5

PORT_MAX = 65535
PORT_NAME_MAX = 15  # RFC 6335 section 5.1
PORT_NAME_PATTERN = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*\Z")

LABEL = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
SERVICE_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"  # RFC 1035
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\.?$"
HTTP_TOKEN = "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$"  # RFC 9110 section 5.6.2
HOSTNAME = r"^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*\.?$"
ENV_NAME = "^[^=]+$"
ABSOLUTE = "^/"
PORT_NAME_RULE = "is not a port's name: at most 15 lower-case letters and digits, a letter among them, '-' within"
# What to say of a text that does not match.
PATTERNS = {
    LABEL: "is not a name: lower-case letters, digits and '-' within (a DNS label, at most 63 long)",
    LABEL_KEY: "is not a label key: letters, digits, '-', '_' and '.' within, after `prefix/` if there is one",
    LABEL_VALUE: "is not a label value: letters, digits, '-', '_' and '.' within",
    SERVICE_NAME: "is not the name of a Service: a letter, then lower-case letters, digits and '-' within",
    SUBDOMAIN: "is not a DNS name: lower-case letters, digits and '-' within, in parts with '.' between",
    HTTP_TOKEN: "is not the name of an HTTP header",
    HOSTNAME: "is not a host name: letters, digits and '-' within, in parts with '.' between",
    ENV_NAME: "is not the name of an environment variable: it holds no '='",
    ABSOLUTE: "is not an absolute path: it begins with '/'",
}

Label = Annotated[str, Field(pattern=LABEL, min_length=1, max_length=63)]
LabelKey = Annotated[str, Field(pattern=LABEL_KEY, max_length=317)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]
Hostname = Annotated[str, Field(pattern=HOSTNAME, max_length=253)]
EnvName = Annotated[str, Field(pattern=ENV_NAME, min_length=1)]
AbsolutePath = Annotated[str, Field(pattern=ABSOLUTE)]
ServiceName = Annotated[str, Field(pattern=SERVICE_NAME, min_length=1, max_length=63)]
Subdomain = Annotated[str, Field(pattern=SUBDOMAIN, max_length=253)]
HeaderName = Annotated[str, Field(pattern=HTTP_TOKEN)]
NodePort = Annotated[int, Field(ge=NODE_PORTS.start, le=NODE_PORTS.stop - 1)]
Mtu = Annotated[int, Field(ge=MTU_MIN, le=MTU_MAX)]
Port = Annotated[int, Field(ge=1, le=PORT_MAX)]


def refuse(message: str, hint: str = "", *, field: str = "") -> NoReturn:
    """Reject a value, or one field of it, with a message of our own. Raises PydanticCustomError."""
    raise PydanticCustomError("refused", "{message}", {"message": message, "hint": hint, "field": field})


def not_a(expected: str) -> NoReturn:
    """Reject a value for its type; `diagnose` adds what was found. Raises PydanticCustomError."""
    raise PydanticCustomError("wrong_type", "{expected}", {"expected": expected})


def parse_address(value: Any) -> Address:
    """Return the IP address that a text names."""
    if not isinstance(value, str):
        not_a("an IP address")
    try:
        address = ip_address(value)
    except ValueError:
        hint = f"leave the prefix length out: {value.partition('/')[0]}" if "/" in value else _why_not_ipv4(value)
        refuse(f"{quote(value)} is not an IP address", hint)
    if "%" in value:
        refuse(f"{quote(value)} names a zone, which has no meaning here")
    return address


def parse_machine_address(value: Any) -> Address:
    """Return the IP address that one machine can have."""
    address = parse_address(value)
    if kind := _special(address):
        refuse(f"{address} cannot be the address of a machine: it is {kind}")
    return address


def parse_network(value: Any) -> Network:
    """Return the network of some machines that a CIDR names; its host bits must be zero."""
    network = parse_range(value)
    if kind := "every address there is" if network.prefixlen == 0 else _special(network):
        refuse(f"{network} cannot be used: it is {kind}")
    return network


def parse_range(value: Any) -> Network:
    """Return any network that a CIDR names; its host bits must be zero."""
    if not isinstance(value, str):
        not_a("a CIDR")
    text, slash, length = value.partition("/")
    if not slash:
        refuse(f"{quote(value)} is not a CIDR: it has no prefix length", "as in 10.244.0.0/16")
    if not (length.isascii() and length.isdigit()):
        refuse(f"{quote(value)} is not a CIDR: a number belongs after the '/'", "as in 10.244.0.0/16")
    try:
        address = ip_address(text)
    except ValueError:
        refuse(f"{quote(value)} is not a CIDR: {quote(text)} is not an IP address", _why_not_ipv4(text))
    if "%" in value:
        refuse(f"{quote(value)} names a zone, which has no meaning here")
    if int(length[:9]) > address.max_prefixlen:
        longest = f"the prefix length of IPv{address.version} is at most {address.max_prefixlen}"
        refuse(f"{quote(value)} is not a CIDR: {longest}")
    network = ip_network((address, int(length)), strict=False)
    if address != network.network_address:
        refuse(f"{quote(value)} has host bits set; did you mean {quote(network)}?")
    return network


def _why_not_ipv4(text: str) -> str:
    """Return a hint for the usual ways to get an IPv4 address wrong."""
    octets = text.split(".")
    if len(octets) < 2 or not all(octet.isascii() and octet.isdigit() for octet in octets):
        return ""
    if len(octets) != 4:
        return f"an IPv4 address has four numbers, this has {len(octets)}"
    too_big = next((octet for octet in octets if int(octet[:9]) > 255), None)
    return f"{quote(too_big)} is more than 255" if too_big else "a number in it begins with 0"


def _special(place: Address | Network) -> str:
    """Return what makes an address or network unfit for a lab; empty when nothing does."""
    kinds = {
        "multicast": place.is_multicast,
        "for loopback": place.is_loopback,
        "link-local": place.is_link_local,
        "the unspecified address": place.is_unspecified,
    }
    return next((kind for kind, applies in kinds.items() if applies), "")


def parse_cluster_ip(value: Any) -> Address | str:
    """Return the address of a Service, "None" for a headless one, "" for one that the cluster chooses."""
    return value if value in ("None", "") else parse_address(value)


def parse_target_port(value: Any) -> str:
    """Return a port's number as text, or its name."""
    if type(value) is int:
        if not 1 <= value <= PORT_MAX:
            refuse(f"{value} is out of range: a port is 1 to {PORT_MAX}")
        return str(value)
    if not isinstance(value, str):
        not_a("a port's number or name")
    if value.isascii() and value.isdigit():
        refuse(f"{quote(value)} is a text, and a port's name has a letter", f"write {value} without quotes")
    return port_name(value)


def port_name(value: str) -> str:
    """Refuse a text that names no port of a container (IANA_SVC_NAME)."""
    if not 0 < len(value) <= PORT_NAME_MAX or not PORT_NAME_PATTERN.match(value):
        refuse(f"{quote(value)} {PORT_NAME_RULE}")
    return value


def _one_or_more(value: Any) -> Any:
    """Make a list of one text, of `a,b` and of a list."""
    values = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(values, list):
        not_a("a text or a list")
    if len(values) > ONE_PER_FAMILY_MAX:
        refuse(f"has {len(values)} values; at most one of each IP version is allowed")
    return values


def _one_per_family(values: list[Any]) -> list[Any]:
    """Refuse a list with nothing in it or with two values of one IP version."""
    if not values:
        refuse("is empty")
    for version in (4, 6):
        same = [str(value) for value in values if value.version == version]
        if len(same) > 1:
            refuse(f"has {len(same)} of IPv{version} ({', '.join(same)}); at most one of each IP version is allowed")
    return values


AddressText = Annotated[str, WithJsonSchema({"type": "string", "x-kind": "IP address"})]
CidrText = Annotated[str, WithJsonSchema({"type": "string", "x-kind": "CIDR"})]
ClusterIpText = Annotated[str, WithJsonSchema({"type": "string", "x-kind": "IP address or `None`"})]
PortOrName = Port | Annotated[str, WithJsonSchema({"type": "string", "x-kind": "port name"})]
AnyAddress = Annotated[Address, PlainValidator(parse_address, json_schema_input_type=AddressText)]
ClusterIp = Annotated[Address | str, PlainValidator(parse_cluster_ip, json_schema_input_type=ClusterIpText)]
TargetPort = Annotated[str, PlainValidator(parse_target_port, json_schema_input_type=PortOrName)]
PortName = Annotated[str, AfterValidator(port_name)]
SourceRange = Annotated[Network, PlainValidator(parse_range, json_schema_input_type=CidrText)]
MachineAddress = Annotated[Address, PlainValidator(parse_machine_address, json_schema_input_type=AddressText)]
Cidr = Annotated[Network, PlainValidator(parse_network, json_schema_input_type=CidrText)]
# At most one per IP version, in the order of the file.
Addresses = Annotated[
    list[MachineAddress],
    BeforeValidator(_one_or_more, json_schema_input_type=AddressText | list[AddressText]),
    AfterValidator(_one_per_family),
]
Cidrs = Annotated[
    list[Cidr],
    BeforeValidator(_one_or_more, json_schema_input_type=CidrText | list[CidrText]),
    AfterValidator(_one_per_family),
]


def entries(counting: Callable[[int], list[Any]] | None) -> Callable[[Any], Any]:
    """Return a validator that undoes the short forms of a list of named entries.

    A text is an entry with that name; a mapping is a list of entries by name; a number counts entries.
    """
    expected = "a list or a mapping by name" if counting is None else "a number, a list or a mapping by name"

    def normalise(value: Any) -> Any:
        if type(value) is int and counting is not None:
            return counting(value)
        if isinstance(value, list):
            return [{"name": entry} if isinstance(entry, str) else entry for entry in value]
        if isinstance(value, dict):
            return [_named_entry(name, settings) for name, settings in value.items()]
        not_a(expected)

    return normalise


def _named_entry(name: str, settings: Any) -> Any:
    if settings is None:
        return {"name": name}
    if not isinstance(settings, dict):
        return (settings,)  # no model takes a tuple: reported as a wrong type at this entry
    if "name" in settings:
        refuse(f"{quote(name)} has a `name` of its own", "the key is the name already: leave `name` out")
    return {"name": name, **settings}


def count_of(prefix: str, smallest: int) -> Callable[[int], list[Any]]:
    """Return the short form of nodes: a number makes `prefix1`, `prefix2` and so on."""

    def counted_entries(number: int) -> list[Any]:
        if not smallest <= number <= NODES_MAX:
            refuse(f"{number} is not between {smallest} and {NODES_MAX}")
        return [{"name": f"{prefix}{i}"} for i in range(1, number + 1)]

    return counted_entries


def count_of_pods(number: int) -> list[Any]:
    """Return the short form of pods: a number makes `p-1`, `p-2` and so on."""
    if not 0 <= number <= PODS_MAX:
        refuse(f"{number} is not between 0 and {PODS_MAX}")
    return [{"name": "p", "replicas": number}]


def numbers_or(field: str) -> Callable[[Any], Any]:
    """Return a validator that undoes the short form of a list of ports: a number is an entry with that `field`."""

    def normalise(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{field: entry} if type(entry) is int else entry for entry in value]

    return normalise


def one_handler(given: Sequence[str]) -> None:
    """Refuse a probe with no way to probe, and with several."""
    if not given:
        refuse("does not say what to try", "give it `exec`, `tcpSocket` or `httpGet`")
    if len(given) > 1:
        refuse(f"cannot stand beside `{given[0]}`", "a probe has one way to probe", field=given[1])


def shell_or_argv(value: Any) -> Any:
    """Make an argv of a command line for the shell."""
    if not isinstance(value, str):
        return value
    return ["sh", "-c", value] if value.strip() else []


def env_entries(value: Any) -> Any:
    """Make a list of names and values of a mapping."""
    if isinstance(value, dict):
        return [{"name": name, "value": text} for name, text in value.items()]
    return value if isinstance(value, list) else not_a("a mapping or a list of {name, value}")


def command_line(value: list[str]) -> list[str]:
    """Refuse a command with an empty program name."""
    if value and not value[0].strip():
        refuse("names no program")
    return value
