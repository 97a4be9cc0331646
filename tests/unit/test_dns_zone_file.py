"""The zone file: what is written is what is read, unchanged lines are kept, and a broken file says where and why."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.dns.names import labels_of
from netlab.dns.records import Endpoint, Kind, Pod, PodRecords, Port, Service, Type
from netlab.dns.zone_file import Cluster, ZoneFileError, ZoneReader, ZoneWriter, read, write
from netlab.service.model import Protocol

labels = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
addresses = st.ip_addresses()
ports = st.tuples(labels | st.just(""), st.sampled_from(Protocol), st.integers(0, 65535)).map(lambda p: Port(*p))
endpoints = st.builds(
    Endpoint,
    st.lists(addresses, max_size=2).map(tuple),
    labels | st.just(""),
    st.booleans(),
    st.lists(ports, max_size=2).map(tuple),
)
services = st.builds(
    Service,
    labels,
    labels,
    st.sampled_from(Kind),
    st.lists(addresses, max_size=2).map(tuple),
    st.sampled_from(["", "example.com", 'ä"\n\u2028']),
    st.lists(ports, max_size=2).map(tuple),
    st.lists(endpoints, max_size=3).map(tuple),
)
clusters = st.builds(
    Cluster,
    st.lists(services, max_size=5, unique_by=lambda service: (service.namespace, service.name)).map(tuple),
    st.lists(labels, max_size=3, unique=True).map(tuple),
    st.lists(st.builds(Pod, labels, addresses), max_size=3).map(tuple),
    st.just("lab.example"),
    st.integers(0, 3600),
    st.sampled_from(PodRecords),
)
WEB = Service("default", "web", cluster_ips=(ip_address("10.96.0.50"),))
API = Service("default", "api", cluster_ips=(ip_address("10.96.0.51"),))
NAME = labels_of("web.default.svc.cluster.local")


@given(cluster=clusters)
def test_what_is_written_is_read(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("zone") / "zone.json"
    write(path, cluster)
    found, want = read(path), cluster.zone()
    assert (found.domain, found.ttl, found.pod_records, found.namespaces, found.services, found.pods) == (
        want.domain,
        want.ttl,
        want.pod_records,
        want.namespaces,
        want.services,
        want.pods,
    )


def test_the_same_again_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "zone.json"
    writer = ZoneWriter(path)
    assert writer.write(Cluster((WEB,)))
    before = os.stat(path)
    assert not writer.write(Cluster((WEB,)))
    assert os.stat(path) == before
    assert writer.write(Cluster((WEB, API)))
    assert os.stat(path).st_ino != before.st_ino  # a reader of the old one is not disturbed
    assert os.listdir(tmp_path) == ["zone.json"]


def test_only_a_changed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "zone.json"
    reader, writer = ZoneReader(path), ZoneWriter(path)
    writer.write(Cluster((WEB, API)))
    first = reader.read_change()
    assert first is not None
    assert reader.read_change() is None
    writer.write(Cluster((WEB,), ttl=7))
    second = reader.read_change()
    assert second is not None
    assert second.services["default", "web"] is first.services["default", "web"]  # its line was known
    assert second.look_up(NAME, Type.A).answers[0].ttl == 7


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("", 1),
        ("{", 1),
        ("[]", 1),
        ('{"format":2}', 1),
        ('{"format":1,"domain":"","ttl":5,"podRecords":"insecure","namespaces":[]}', 1),
        ('{"format":1,"domain":"a","ttl":5,"podRecords":"all","namespaces":[]}', 1),
        ("\n{}", 1),
        ("GOOD\n{}", 2),
        ('GOOD\n["default"]', 2),
        ('GOOD\n["default", 7]', 2),
        ("GOOD\nSERVICE\n" + "[" * 100_000, 3),
        ("GOOD\nSERVICE\nxyz", 3),
        ('GOOD\n{"namespace":1,"name":"web"}', 2),
    ],
)
def test_a_broken_file_says_which_line(tmp_path: Path, line: str, number: int) -> None:
    path = tmp_path / "zone.json"
    write(path, Cluster((WEB,)))
    good, service = path.read_text().splitlines()
    path.write_text(line.replace("GOOD", good).replace("SERVICE", service))
    with pytest.raises(ZoneFileError, match=rf"zone\.json, line {number}: "):
        read(path)


@given(cut=st.integers(0, 400), other=st.binary(max_size=30))
def test_any_bytes_are_a_zone_or_an_error(cut: int, other: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("zone") / "zone.json"
    write(path, Cluster((WEB, API), pods=(Pod("default", ip_address("10.244.0.1")),)))
    text = path.read_bytes()
    path.write_bytes(text[:cut] + other + text[cut + len(other) :])
    try:
        zone = read(path)
    except ZoneFileError:
        return
    for kind in Type:
        zone.look_up(NAME, kind)  # what was let in does no harm later
