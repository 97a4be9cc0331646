"""Whatever becomes of a valid file, loading it gives a topology or a TopologyError; and a topology can be planned."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netlab.errors import TopologyError
from netlab.plan.build import build
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology import document
from netlab.topology.load import load, load_text
from netlab.topology.model import Topology
from netlab.topology.pod_schema import ProbeSpec
from netlab.topology.reference import EXAMPLES
from netlab.topology.service_schema import ServiceSpec

TOPOLOGIES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))
FILES = {path.stem: path.read_text() for path in TOPOLOGIES if path.stem != "hundred-nodes"}
TEXTS = [*FILES.values(), EXAMPLES[ServiceSpec].lstrip(), EXAMPLES[ProbeSpec].lstrip()]
PLANNED_MAX = 60  # nodes and pods of a topology that is planned too

TOKENS = (
    *("", " ", "\n", "\t", "\0", "\x85", "\u2028", "\ufeff", "é", "😀", "#", "'", '"', "\\", "|", ">", "%", "@", "`"),
    *(":", ": ", "- ", ",", "[", "]", "{", "}", "?", "? ", "---\n", "...\n", "&a ", "*a", "!x ", "!!str ", "<<: *a"),
    *("null", "~", "true", "no", "0", "-1", "1", "2", "1000", "010", "1_0", "0x1", "22:22", "1.5", ".inf", ".nan"),
    *(
        "2026-01-01",
        "99999999999999999999",
        "10.244.0.0/16",
        "10.0.0.0/8",
        "fd00::/64",
        "::1",
        "172.18.0.5",
        "10.244.1.9",
    ),
    *(
        "nodes",
        "pods",
        "name",
        "node",
        "replicas",
        "perNode",
        "ip",
        "segment",
        "underlay",
        "segments",
        "routers",
        "cidr",
    ),
    *("services", "ports", "port", "targetPort", "nodePort", "selector", "clusterIP", "type", "ClusterIP", "None"),
    *("NodePort", "LoadBalancer", "ExternalName", "externalIPs", "loadBalancerIP", "readinessProbe", "httpGet", "app"),
    *("10.96.0.10", "203.0.113.7", "30080", "proxy", "loadBalancerCIDR", "valueFrom", "UDP", "Local"),
    *("n1", "p-1", "web", "web-1", "rack1", "rack2", "vxlan", "ipip", "bridge", "host-gw", "VNI", "vni", "MTU"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.floats(),
    st.sampled_from([token for token in TOKENS if "\0" not in token]),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TOKENS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def load_or_refuse(text: str) -> None:
    """Load; plan what loads. Anything but a TopologyError is a failure."""
    try:
        topology = load_text(text)
    except TopologyError as refusal:
        assert_says_something(refusal)
    else:
        assert_is_whole(topology)


def assert_says_something(refusal: TopologyError) -> None:
    """Check that a refusal has a message, in file order."""
    assert str(refusal)
    places = [(problem.line, problem.column) for problem in refusal.problems]
    assert places
    assert places == sorted(places)


def assert_is_whole(topology: Topology) -> None:
    """Check what `topology.model` promises, and that a plan can be made of it."""
    names = list(topology.members())
    assert len(names) == len(set(names))
    assert {pod.node for pod in topology.pods} <= {node.name for node in topology.cluster_nodes}
    assert {node.segment for node in topology.nodes} <= {segment.name for segment in topology.segments}
    if len(topology.nodes) + len(topology.pods) <= PLANNED_MAX:
        snapshot = allocate(topology, Snapshot())
        build(topology, snapshot)


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """Draw a valid file with a few pieces cut out, doubled or replaced."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
        text = text[:start] + draw(st.sampled_from(TOKENS) | st.just(text[start:end] * 2)) + text[end:]
    return text


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every list or mapping of a value with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places(inner)


@st.composite
def mutated_values(draw: st.DrawFn) -> str:
    """Draw a valid file with a few values or keys replaced by others, in valid YAML."""
    value = yaml.safe_load(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(value))))
        match draw(st.sampled_from(["value", "value", "key", "delete", "copy"])):
            case "value":
                container[key] = draw(VALUES)
            case "key" if isinstance(container, dict):
                container[draw(st.sampled_from(TOKENS))] = container.pop(key)
            case "delete" if len(container) > 1:
                del container[key]
            case "copy" if isinstance(container, list):
                container.append(container[key])
    return yaml.dump(value, sort_keys=False)


relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@relaxed
@given(mutated_texts())
def test_mutated_text_loads_or_is_refused(text: str) -> None:
    load_or_refuse(text)


@relaxed
@given(mutated_values())
def test_mutated_values_load_or_are_refused(text: str) -> None:
    load_or_refuse(text)


@relaxed
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#?,%\n\t \\<")))
def test_any_text_is_refused_or_read(text: str) -> None:
    load_or_refuse(text)


def test_any_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.yaml"
    noise = random.Random(1)
    for _ in range(100):
        path.write_bytes(noise.randbytes(noise.randrange(200)))
        with pytest.raises(TopologyError):
            load(path)


@pytest.mark.parametrize("text", TEXTS, ids=[*FILES, "services", "probe"])
def test_python_parser_reads_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_text(text)
    monkeypatch.setattr(document, "Parser", yaml.SafeLoader)
    assert load_text(text) == expected


@settings(relaxed, max_examples=50)
@given(mutated_texts())
def test_python_parser_loads_or_refuses(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "Parser", yaml.SafeLoader)
        load_or_refuse(text)
