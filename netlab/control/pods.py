"""Pods that the control plane makes and ends, by the same way as `netlab up`: their share of the lab's plan.

One change at a time, each with all that was asked for meanwhile. A pod that ends gets its SIGTERM only when every node
has taken it out of its rules, so that no new connection goes to it; it is removed when its containers have ended, so
that no other change waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module

from netlab.errors import NetlabError
from netlab.supervisor.retire import Retirement
from netlab.topology.pod import Pod

RETRY = 2.0  # seconds after a change that failed
LINGER = 0.05  # seconds for packets that were on their way to a pod when its last rule went

Say = Callable[[str], None]


class PodChanges:
    """Pods on their way into the lab and out of it."""

    def __init__(self, lab: str, wake: Callable[[], None], say: Say) -> None:
        self._lab = lab
        self._wake = wake
        self._say = say
        self._making: dict[str, Pod] = {}
        self._ending: set[str] = set()
        self._removable: dict[str, Retirement | None] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._work = asyncio.Event()
        self._adding: set[str] = set()  # by the change that is under way
        self._changed = asyncio.Event()
        self._done = False
        self._task = asyncio.create_task(self._run())

    def make(self, pod: Pod) -> None:
        """Have a pod made, soon."""
        self._making[pod.name] = pod
        self._work.set()

    def making(self) -> list[Pod]:
        """Return the pods that were asked for and are not there yet."""
        return list(self._making.values())

    def forget(self, name: str) -> bool:
        """Let go of a pod that was asked for, and say whether it was; a change that is under way may still make it."""
        if self._making.pop(name, None) is None:
            return False
        self._work.set()
        return True

    def end(self, name: str, settled: Callable[[], Awaitable[None]]) -> None:
        """Have a pod removed once `settled` says that nobody sends to it any more."""
        if name in self._ending:
            return
        self._ending.add(name)
        self._making.pop(name, None)  # it is in the lab's record before it is made
        task = asyncio.create_task(self._retire(name, settled))
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    async def prepare(self) -> None:
        """Load what a change takes, before anybody waits for one."""
        await asyncio.to_thread(import_module, "netlab.control.change")

    def take_done(self) -> bool:
        """Say whether the lab's pods have changed since this was asked last."""
        done, self._done = self._done, False
        return done

    def close(self) -> None:
        """End every task; a change that is under way goes on to its end."""
        for task in (self._task, *self._waits):
            task.cancel()
        self._close(self._removable)

    async def _retire(self, name: str, settled: Callable[[], Awaitable[None]]) -> None:
        await settled()
        await asyncio.sleep(LINGER)
        while name in self._adding:  # a change would wait in vain for containers that are to end
            await self._changed.wait()
        self._removable[name] = await self._end_containers(name)
        self._work.set()

    async def _end_containers(self, name: str) -> Retirement | None:
        """Have a pod's containers end; None when the supervisor does not answer, which ends them with the pod then."""
        try:
            retirement = Retirement(name)
        except OSError as exc:
            self._say(f"pod {name}: the supervisor does not answer: {exc.strerror}")
            return None
        try:
            await retirement.ended()
        except OSError as exc:
            self._say(f"pod {name}: the supervisor has ended: {exc.strerror}")
        except BaseException:
            retirement.close()
            raise
        return retirement

    def _close(self, names: Iterable[str]) -> None:
        for name in list(names):
            if retirement := self._removable.pop(name):
                retirement.close()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            add, remove = dict(self._making), set(self._removable)
            self._begin(add)
            try:
                await asyncio.to_thread(self._change, list(add.values()), remove)
            except (NetlabError, OSError) as exc:
                self._say(f"pods: {exc}")
                self._begin(())
                await asyncio.sleep(RETRY)
                self._work.set()
                continue
            self._begin(())
            self._making = {name: pod for name, pod in self._making.items() if add.get(name) is not pod}
            self._ending -= remove
            self._close(remove)
            self._done = True
            self._wake()

    def _begin(self, add: Iterable[str]) -> None:
        """Note which pods a change adds; none when it has ended."""
        self._adding = set(add)
        self._changed.set()
        self._changed = asyncio.Event()

    def _change(self, add: list[Pod], remove: set[str]) -> None:
        from netlab.control.change import change_pods

        change_pods(self._lab, add, remove)
