"""The schema as editors, readers and beginners see it: JSON Schema, docs/topology.md, the starter, topologies/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from netlab.topology.load import load, load_text
from netlab.topology.reference import EXAMPLES, render_reference
from netlab.topology.schema import json_schema
from netlab.topology.starter import starter

ROOT = Path(__file__).parents[2]
TOPOLOGIES = sorted((ROOT / "topologies").glob("*.yaml"))
FORMS = [
    "nodes: 2\nname:\nchecks:\n",
    "nodes: {n1: , n2: {ip: 172.18.0.9}}\nexternal: [c, {name: d}]\n",
    "nodes: 2\nbackend: bridge\nserviceCIDR: 10.96.0.0/16\n",
    "nodes: 2\nbackend: {DirectRouting: true, vni: 7}\nclusterCIDR: [10.244.0.0/16]\n",
    "nodes: [{name: a, segment: r}]\nunderlay: {segments: {r: 10.9.0.0/24}}\nx-anchors: {any: [thing]}\n",
    "nodes: 1\npods: {a: , b: {replicas: 2, containers: [{name: c, command: sleep 9, env: {A: b}}]}}\n",
    "nodes: 1\nservices: {a: {ports: [80]}, b: {clusterIP: None}, c: {ports: [{port: 1, targetPort: x}]}}\n",
    "nodes: [{name: a, proxy: ipvs}]\nservices: [{name: d, type: ExternalName, externalName: a.b, ports: }]\n",
    "nodes: 1\npods: [{name: b, containers: [{name: c, ports: [80], readinessProbe: {tcpSocket: {port: 80}}}]}]\n",
    "nodes: 1\npods: [a, {name: b, containers: [{name: c, command: [x], env: [{name: A, value: b}]}]}]\n",
]
WRONG = [
    "{}",
    "nodse: 2",
    "nodes: -1",
    "nodes: 2\nbackend: vxlna",
    "nodes: 2\nbackend: {type: host-gw, VNI: 1}",
    "nodes: 2\nname: My_Lab",
    "nodes: 2\nunderlay: {mtu: 10}",
    "nodes: 2\nunderlay: {segments: {Rack: 10.0.0.0/24}}",
    "nodes: 2\npods: [{nmae: a}]",
    "nodes: 2\nchecks: [{from: a}]",
    "nodes: 2\nservices: [{name: A, ports: [80]}]",
    "nodes: 2\nservices: [{name: a, ports: [{port: 80, nodePort: 80}]}]",
    "nodes: 2\nservices: [{name: a, ports: [80], clusterip: None}]",
    "nodes: 2\nproxy: userspace",
    "nodes: 2\nnftables: {localhostNodePorts: true}",
    "nodes: 2\npods: [{name: a, containers: [{name: c, ports: [70000]}]}]",
    "nodes: 2\npods: {a: {containers: [{name: c, command: x, restartPolicy: Sometimes}]}}",
]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", FORMS + [path.read_text() for path in TOPOLOGIES] + [starter()])
def test_json_schema_takes_what_loads(validator: Any, text: str) -> None:
    load_text(text)
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", WRONG)
def test_json_schema_refuses_what_is_wrong(validator: Any, text: str) -> None:
    assert not validator.is_valid(yaml.safe_load(text))


def test_json_schema_describes_every_field() -> None:
    schema = json_schema()
    for model in (schema, *schema["$defs"].values()):
        for name, field in model.get("properties", {}).items():
            assert name == "type" or field.get("description"), name


def test_reference_is_up_to_date() -> None:
    page = (ROOT / "docs" / "topology.md").read_text(encoding="utf-8")
    assert page == render_reference(), "run: python -m netlab.topology.reference > docs/topology.md"


def test_links_of_the_reference_lead_somewhere() -> None:
    page = render_reference()
    titles = {title.lower().replace(" ", "-") for title in re.findall("^## (.*)$", page, re.MULTILINE)}
    links = set(re.findall(r"\(#([^)]*)\)", page))
    assert links
    assert links <= titles


@pytest.mark.parametrize("text", re.findall("```yaml\n(.*?)```", render_reference(), re.DOTALL))
def test_examples_of_the_reference_load(text: str) -> None:
    load_text(text)


def test_every_example_is_in_the_reference() -> None:
    assert len(re.findall("```yaml", render_reference())) == len(EXAMPLES) + 1


def test_starter_loads_and_uses_most_sections() -> None:
    topology = load_text(starter())
    assert topology.pods
    assert topology.checks
    assert len(topology.cluster_nodes) < len(topology.nodes)


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_shipped_topology_says_what_to_see(path: Path) -> None:
    assert load(path).checks
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert "see" in " ".join(comment).lower()
    assert path.read_text().startswith("# ")


def test_three_nodes_with_two_pods_each_take_less_than_twenty_lines() -> None:
    path = ROOT / "topologies" / "vxlan-3.yaml"
    assert len(path.read_text().splitlines()) < 20
    topology = load(path)
    assert [pod.node for pod in topology.pods] == ["n1", "n2", "n3"] * 2
