"""What a check asks and finds, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from netlab.topology.model import Address, CheckProtocol, Expect


@dataclass(frozen=True, slots=True)
class Member:
    """A source or target of probes. A hostNetwork pod has its node's namespace and addresses.

    `node` is a machine's own name or that of the node a pod runs on; `node_netns` is that machine's namespace.
    `on_pod_network` says whether the addresses are from a podCIDR, and not the underlay's.
    """

    name: str
    netns: str
    node: str
    node_netns: str
    segment: str
    on_pod_network: bool
    addresses: tuple[Address, ...]

    def find_address(self, version: int) -> Address | None:
        """Return the first address of that IP version."""
        return next((address for address in self.addresses if address.version == version), None)

    @property
    def versions(self) -> frozenset[int]:
        """Return the IP versions that the member has addresses of."""
        return frozenset(address.version for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Probe:
    """One question. `family` is the IP version, `size` the whole IP packet in bytes (sent with don't-fragment).

    `by_design` says why the backend cannot do it; empty where it should work.
    """

    source: Member
    target: Member
    family: int
    address: Address
    protocol: CheckProtocol = CheckProtocol.ICMP
    port: int | None = None
    size: int | None = None
    expect: Expect = Expect.REACHABLE
    by_design: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The pairs to probe, and how many probes all pairs would have needed."""

    probes: tuple[Probe, ...]
    total: int


class Outcome(StrEnum):
    """What happened to a probe."""

    ANSWERED = "answered"
    TOO_BIG = "too-big"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe saw: `seconds` is the round trip of an answered one, `reason` why it was not."""

    outcome: Outcome
    seconds: float | None = None
    reason: str = ""


class Result(StrEnum):
    """What a probe's answer means."""

    OK = "ok"
    FAIL = "fail"
    BY_DESIGN = "by-design"
    AGAINST_DESIGN = "against-design"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one probe; `reason` says why it failed, or what was seen where a failure was expected."""

    result: Result
    seconds: float | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Say whether things are as expected."""
        return self.result is not Result.FAIL


@dataclass(frozen=True, slots=True)
class Finding:
    """A probe and its verdict."""

    probe: Probe
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a check found.

    `total` counts the probes that all pairs would need; `seconds` is the wall time from the first packet on.
    """

    lab: str
    pairs: tuple[Finding, ...]
    checks: tuple[Finding, ...]
    total: int
    seconds: float

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Return what is not as expected: pairs, then checks."""
        return tuple(finding for finding in (*self.pairs, *self.checks) if not finding.verdict.ok)

    @property
    def probes(self) -> int:
        """Return how many probes were sent."""
        return len(self.pairs) + len(self.checks)

    @property
    def sampled(self) -> bool:
        """Say whether only a part of the pairs was probed."""
        return len(self.pairs) < self.total

    @property
    def ok(self) -> bool:
        """Say whether everything is as expected."""
        return not self.failures
