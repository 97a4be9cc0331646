"""How the `netlab` command speaks with a lab's control plane: one JSON object each way, over a stream socket.

The socket is abstract and known in the lab's fabric namespace only; nothing is left of it. An answer has "error" and
"hint" where the control plane refused.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from netlab import names
from netlab.errors import NetlabError, UsageError
from netlab.kernel import netns

ADDRESS = "\0netlab-control"
TIMEOUT = 120.0  # seconds: a rollout may be waited for


def ask(lab: str, request: Mapping[str, Any], *, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Send one request and return its answer. Raises UsageError with a refusal, NetlabError if nobody is there."""
    fabric = names.fabric(lab)
    if not netns.is_alive(fabric):
        raise UsageError(f"lab {lab} is not up", "run `netlab up`")
    try:
        with netns.call(fabric, socket.socket, socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(ADDRESS)
            connection.sendall(json.dumps(request).encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as stream:
                answer: dict[str, Any] | None = json.loads(stream.read() or b"null")
    except TimeoutError as exc:
        raise NetlabError(f"the control plane of lab {lab} does not answer", "`netlab logs control-plane`") from exc
    except ConnectionError as exc:
        hint = "`netlab up` starts it again; a lab with `proxy: none` has none"
        raise NetlabError(f"lab {lab} has no control plane that runs", hint) from exc
    if answer is None:
        raise NetlabError(f"the control plane of lab {lab} has ended in the middle", "`netlab logs control-plane`")
    if "error" in answer:
        raise UsageError(answer["error"], answer.get("hint", ""))
    return answer
