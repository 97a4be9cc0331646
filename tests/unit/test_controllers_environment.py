"""A container's variables: values, references between them, and the pod's own fields."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from netlab.controllers.environment import environment, expand, is_field
from netlab.errors import PlanError
from netlab.topology.pod import Container, EnvVar, Pod

POD = Pod("web-0", "n1", (("app", "web"), ("example.com/tier", "front")), namespace="shop")
ADDRESSES = (ip_address("10.244.1.5"), ip_address("fd00:244:1::5"))
NODE = (ip_address("172.18.0.2"), ip_address("fd01::2"))


def of(*variables: EnvVar) -> tuple[tuple[str, str], ...]:
    return environment(Container("main", env=variables), POD, ADDRESSES, NODE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['example.com/tier']", "front"),
        ("metadata.labels['missing']", ""),
        ("spec.nodeName", "n1"),
        ("status.podIP", "10.244.1.5"),
        ("status.podIPs", "10.244.1.5,fd00:244:1::5"),
        ("status.hostIP", "172.18.0.2"),
        ("status.hostIPs", "172.18.0.2,fd01::2"),
    ],
)
def test_fields_are_filled_in(path: str, value: str) -> None:
    assert is_field(path)
    assert of(EnvVar("X", field_path=path)) == (("X", value),)


@pytest.mark.parametrize(
    "path", ["spec.name", "metadata.labels", "metadata.labels['<key>']x", "", "metadata.labels[a]"]
)
def test_an_unknown_field_is_refused_by_name(path: str) -> None:
    assert not is_field(path)
    if path:
        with pytest.raises(PlanError, match=r"pod shop/web-0: fieldPath .*: no such field"):
            of(EnvVar("X", field_path=path))


def test_a_variable_may_name_those_above_it_and_the_last_of_a_name_counts() -> None:
    found = of(
        EnvVar("HOST", "$(NAME)"),
        EnvVar("NAME", field_path="metadata.name"),
        EnvVar("HOST", "$(NAME).nginx"),
        EnvVar("EMPTY"),
    )
    assert found == (("NAME", "web-0"), ("HOST", "web-0.nginx"), ("EMPTY", ""))


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)", "1"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("$A $", "$A $"), ("$$$(A)$", "$1$"), ("$(A", "$(A")],
)
def test_expansion_is_kubernetes_own(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded
