"""Names as tuples of lower-case labels without the root, and the addresses that some of them are. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from netlab.topology.addresses import Address

Name = tuple[str, ...]
REVERSE = {4: ("in-addr", "arpa"), 6: ("ip6", "arpa")}


def labels_of(name: str) -> Name:
    """Return the lower-case labels of a name in text, with or without the last dot."""
    text = name.lower().removesuffix(".")
    return tuple(text.split(".")) if text else ()


def lower(name: Name) -> Name:
    """Return a name that was kept in its own letters as names are compared."""
    return tuple(label.lower() for label in name)


def dashed_address(label: str) -> Address | None:
    """Return the address in a pod's name (10-244-1-7), None for another label."""
    dots = label.count("-") == 3 and "--" not in label
    if not set(label) <= set("0123456789abcdef-"):
        return None
    try:
        found = ip_address(label.replace("-", "." if dots else ":"))
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def dashed(address: Address) -> str:
    """Return an address as a label, which may end in a dash."""
    return str(address).replace(".", "-").replace(":", "-")


def reversed_address(labels: Name, origin: Name) -> Address | None:
    """Return the address that labels below a reverse zone stand for, None for another name."""
    try:
        if origin == REVERSE[4]:
            return IPv4Address(".".join(reversed(labels)))
        if len(labels) == 32 and set(labels) <= set("0123456789abcdef"):
            return IPv6Address(int("".join(reversed(labels)), 16))
    except ValueError:
        pass
    return None


def fits(name: Name) -> bool:
    """Tell whether DNS can carry a name: labels of 1 to 63 bytes, 255 with their lengths (RFC 1035, 3.1)."""
    short = all(0 < len(label) <= 63 and label.isascii() for label in name)
    return short and sum(map(len, name)) + len(name) + 1 <= 255
