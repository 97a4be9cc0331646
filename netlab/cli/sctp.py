"""What is said, once a command, where SCTP ports are declared and the kernel has no SCTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from netlab.errors import NotSupported

if TYPE_CHECKING:
    from netlab.topology.pod import Container
    from netlab.topology.service import Service

NO_SCTP = "note: this kernel has no SCTP: nothing can listen on the SCTP ports of {}, only their rules are made"
NAMED = 3  # how many are named


def warn_of_sctp(services: Iterable[Service], containers: Iterable[tuple[str, Container]]) -> None:
    """Say on standard error which of these have SCTP ports, where that matters; containers come with their owner."""
    from netlab.kernel import features
    from netlab.topology.service import Protocol

    found = [f"service {one.name}" for one in services if any(port.protocol is Protocol.SCTP for port in one.ports)]
    found += [owner for owner, one in containers if any(port.protocol is Protocol.SCTP for port in one.ports)]
    found = list(dict.fromkeys(found))
    if not found:
        return
    try:
        features.require("sctp", "an SCTP port")
    except NotSupported as exc:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        click.echo(NO_SCTP.format(", ".join(found[:NAMED]) + more), err=True)
        click.echo(f"  hint: {exc.hint}", err=True)
