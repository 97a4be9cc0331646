"""kube-proxy's iptables mode on one node: writes what changed, and notices what somebody else does (facts.md 3.8)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from netlab.errors import NetlabError
from netlab.kernel import sysctl
from netlab.proxy import listing, tools
from netlab.proxy.conntrack import Cleaner
from netlab.proxy.iptables_rules import Rules
from netlab.proxy.proxier import Changes, NodeTarget
from netlab.proxy.retry import Retry
from netlab.proxy.watch import LOOKS, Change, LegacyWatch, NftWatch
from netlab.service.iptables_restore import CANARY_TABLES, base
from netlab.service.model import ProxyNode

ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"


class IptablesProxier:
    """Keeps one node's rules in iptables mode: see proxier.Proxier."""

    def __init__(self, target: NodeTarget) -> None:
        self._target = target
        self._rules = {node.addresses[0].version: _rules(target, node) for node in target.nodes}
        self._conntrack = Cleaner(target.netns)
        self._variant = ""
        self._nft: NftWatch | None = None
        self._legacy: LegacyWatch | None = None
        self._retry = Retry()
        self._looks = 0

    def sync(self, changes: Changes) -> None:
        """Write ports that changed; everything where that failed before, or somebody else changed our rules."""
        self._open()
        self._look()
        for version, rules in self._rules.items():
            own = {key: port for key, port in changes.items() if key[-1] == version}
            self._conntrack.note(own, rules.wanted)
            rules.take(own)
        self._write()

    def resync(self) -> None:
        """Write everything anew."""
        self._open()
        self._forget()
        self._write()

    def is_intact(self) -> bool:
        """Say whether every chain and jump is there. The node's rules are listed only if somebody changed some.

        And those of iptables-legacy now and then, for what its sizes do not show.
        """
        if self._variant:
            self._looks += 1
            self._look(everything=self._looks % LOOKS == 0)
        return all(rules.is_known for rules in self._rules.values())

    def fileno(self) -> int | None:
        """Return what hears of changes; None of iptables-legacy, whose changes nobody hears of."""
        return self._nft.fileno() if self._nft else None

    def tick(self, now: float) -> float | None:
        """Try again what failed."""
        if self._retry.is_due(now):
            self._write()
        return self._retry.at

    def remove(self) -> None:
        """Take every chain, jump and setting of ours away, and nobody else's."""
        self._open()
        for version, rules in self._rules.items():
            self._restore(version, listing.removal(self._listed(version)))
            if rules.base.localhost_node_ports:
                sysctl.write_one(self._target.netns, ROUTE_LOCALNET, "0")
        self.close()

    def close(self) -> None:
        """Leave the rules where they are and let go of sockets."""
        for watch in (self._nft, self._legacy):
            if watch:
                watch.close()
        self._nft = self._legacy = None
        self._variant = ""
        self._forget()

    def _open(self) -> None:
        if self._variant:
            return
        name, versions = self._target.netns, list(self._rules)
        variant = tools.choose_variant(name, self._target.options.tool, versions)
        if variant == "iptables-nft":
            self._nft = NftWatch(name)
        else:
            self._legacy = LegacyWatch(name, versions)
        self._variant = variant

    def _forget(self) -> None:
        for rules in self._rules.values():
            rules.forget()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Bring the kernel to what is wanted. A change that it refuses is written as a whole, at once."""
        with self._retry, tools.collecting_later():
            for version, rules in self._rules.items():
                if rules.is_known and rules.is_pending:
                    self._write_change(version, rules)
                if not rules.is_known:
                    self._write_all(version, rules)
            if self._legacy:
                self._legacy.accept()
            self._conntrack.clean()

    def _write_change(self, version: int, rules: Rules) -> None:
        try:
            self._restore(version, rules.partial())
        except NetlabError:  # something that the change relies on is gone
            return
        rules.accept()

    def _write_all(self, version: int, rules: Rules) -> None:
        self._conntrack.note_all(rules.wanted)
        if rules.base.localhost_node_ports:
            sysctl.write_one(self._target.netns, ROUTE_LOCALNET, "1")
        self._restore(version, rules.full(self._listed(version)))
        rules.accept()

    def _restore(self, version: int, text: Iterator[str]) -> None:
        for first in text:  # none: there is nothing to do
            ignoring = self._nft.ignoring if self._nft else None
            whole = itertools.chain([first], text)
            tools.restore(self._target.netns, self._variant, version, whole, ignoring=ignoring)

    def _listed(self, version: int) -> listing.Tables:
        return listing.parse(tools.save(self._target.netns, self._variant, version))

    # --- what somebody else did --------------------------------------------------------------------------------------

    def _look(self, *, everything: bool = False) -> None:
        """Forget what was written where somebody else changed it; what may be a change of it is told by listing."""
        if self._nft:
            changes = self._nft.take()
            if changes is None or any(_is_of_ours(change) for change in changes):
                self._forget()
            elif any(_may_be_a_jump(change) for change in changes):
                self._compare()
        elif self._legacy and (everything or self._legacy.has_changed()):
            self._legacy.accept()
            self._compare()

    def _compare(self) -> None:
        for version, rules in self._rules.items():
            if rules.is_known and not rules.is_complete(self._listed(version)):
                rules.forget()


def _rules(target: NodeTarget, node: ProxyNode) -> Rules:
    options = target.options
    fixed = base(node, localhost_node_ports=options.localhost_node_ports, tcp_be_liberal=options.tcp_be_liberal)
    return Rules(node, fixed)


def _is_of_ours(change: Change) -> bool:
    return change.table in CANARY_TABLES and change.chain.startswith(listing.OWN)


def _may_be_a_jump(change: Change) -> bool:
    return change.table in CANARY_TABLES and change.is_deletion
