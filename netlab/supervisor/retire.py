"""How the control plane has a pod's containers end: their grace may be long, and nobody else shall wait for it."""

from __future__ import annotations

import asyncio
import socket

from netlab.supervisor.spec import CONTROL, RETIRE


class Retirement:
    """A pod without running containers, until it is closed: then they start again if the pod is still there."""

    def __init__(self, pod: str) -> None:
        """Ask the lab's supervisor, from its fabric namespace. Raises OSError when nobody is there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(CONTROL)
            self._socket.send(RETIRE + pod.encode())
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    async def ended(self) -> None:
        """Wait until all containers have ended, or the supervisor has."""
        await asyncio.get_running_loop().sock_recv(self._socket, 512)

    def close(self) -> None:
        """Let the pod go."""
        self._socket.close()
