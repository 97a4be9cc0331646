"""kube-proxy's nftables mode on one node: one transaction for what changed (facts.md 5.5)."""

from __future__ import annotations

from netlab.errors import NetlabError
from netlab.proxy import generation, nftables_affinity, tools
from netlab.proxy.conntrack import Cleaner
from netlab.proxy.nftables_objects import TableObjects
from netlab.proxy.proxier import Changes, NodeTarget
from netlab.proxy.retry import Retry
from netlab.proxy.watch import NftWatch
from netlab.service.nftables import TABLE, WORDS
from netlab.service.nftables_table import base, removal

GRACE = 1.0  # seconds between emptying a chain and deleting it


class NftablesProxier:
    """Keeps one node's rules in nftables mode: see proxier.Proxier."""

    def __init__(self, target: NodeTarget) -> None:
        self._target = target
        self._tables = {
            node.addresses[0].version: TableObjects(node, base(node, target.options.service_cidrs))
            for node in target.nodes
        }
        self._conntrack = Cleaner(target.netns)
        self._watch: NftWatch | None = None
        self._retry = Retry()
        self._delete_at: float | None = None

    def sync(self, changes: Changes) -> None:
        """Write ports that changed; everything where that failed before, or somebody else changed the table."""
        self._look()
        for version, table in self._tables.items():
            own = {key: port for key, port in changes.items() if key[-1] == version}
            self._conntrack.note(own, table.wanted)
            table.take(own)
        self._write()

    def resync(self) -> None:
        """Write everything anew."""
        self._forget()
        self._write()

    def is_intact(self) -> bool:
        """Say whether nobody else changed the table."""
        self._look()
        return all(table.is_known for table in self._tables.values())

    def fileno(self) -> int | None:
        """Return what hears of changes."""
        return self._watch.fileno() if self._watch else None

    def tick(self, now: float) -> float | None:
        """Try again what failed, and delete chains that were emptied a second ago."""
        if self._retry.is_due(now):
            self._write()
        stale = any(table.stale for table in self._tables.values())
        if not stale:
            self._delete_at = None
        elif self._delete_at is None:
            self._delete_at = now + GRACE
        elif now >= self._delete_at:
            self._delete_at = None
            self._delete_stale()
        return min((time for time in (self._retry.at, self._delete_at) if time is not None), default=None)

    def remove(self) -> None:
        """Take the tables away."""
        names = [f"{words.ip} {TABLE}" for words in WORDS.values()]
        versions = [WORDS[version].table for version in self._tables]
        text = "".join(f"add table {name}\ndelete table {name}\n" for name in names if name in versions)
        self._run(text)
        self.close()

    def close(self) -> None:
        """Leave the rules where they are and let go of the socket."""
        if self._watch:
            self._watch.close()
        self._watch = None
        self._forget()

    def _opened(self) -> NftWatch:
        if self._watch is None:
            self._watch = NftWatch(self._target.netns)
        return self._watch

    def _forget(self) -> None:
        for table in self._tables.values():
            table.forget()

    def _look(self) -> None:
        """Forget what was written where somebody else changed the table."""
        if self._watch is None:
            return
        changes = self._watch.take()
        for version, table in self._tables.items():
            if changes is None or any(change[:2] == (version, TABLE) for change in changes):
                table.forget()

    def _write(self) -> None:
        """Bring the kernel to what is wanted. A change that it refuses is written as a whole, at once."""
        with self._retry, tools.collecting_later():
            for table in self._tables.values():
                if table.is_known and table.is_pending:
                    self._write_change(table)
            if not all(table.is_known for table in self._tables.values()):
                self._write_all()
            self._conntrack.clean()

    def _write_all(self) -> None:
        """Write the tables that are not known as a whole, once more where somebody else wrote meanwhile."""
        watch = self._opened()
        before = generation.read(self._target.netns)
        self._look()
        unknown = [table for table in self._tables.values() if not table.is_known]
        try:
            with watch.paused():
                for table in unknown:
                    tools.nft(self._target.netns, [self._full(table)])
                    table.accept()
            if generation.read(self._target.netns) == before + len(unknown):
                return
        except BaseException:
            self._forget()  # of the others nothing was heard either
            raise
        self._forget()
        for table in self._tables.values():
            self._run(self._full(table))
            table.accept()

    def _full(self, table: TableObjects) -> str:
        """Return the whole of a table. Who comes to have affinity from here until it is written loses it."""
        self._conntrack.note_all(table.wanted)
        return table.full(nftables_affinity.read(self._target.netns, table.version) if table.has_affinity else {})

    def _write_change(self, table: TableObjects) -> None:
        text = table.partial()
        if text is None:
            return
        try:
            self._run(text)
        except NetlabError:  # something that the change relies on is gone
            return
        table.accept()

    def _delete_stale(self) -> None:
        with self._retry:
            for table in self._tables.values():
                try:
                    self._run(removal(table.name, table.stale))
                except NetlabError:
                    table.forget()
                    raise
                table.stale.clear()

    def _run(self, text: str) -> None:
        """Make a transaction that is not heard of. None of no text."""
        if text:
            tools.nft(self._target.netns, [text], ignoring=self._opened().ignoring)
