"""The arrows of the design: pure packages stay free of effects, and only a few modules reach the kernel."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import netlab

ROOT = Path(netlab.__file__).parent
PURE = (
    "bpf/assembler.py",
    "bpf/classic.py",
    "pcapng.py",
    "trace/render",
    "trace/attach.py",
    "trace/changes.py",
    "trace/connections.py",
    "trace/correlate.py",
    "trace/dissect.py",
    "trace/drop_table.py",
    "trace/drops.py",
    "trace/explain.py",
    "trace/headers.py",
    "trace/hits.py",
    "trace/layout.py",
    "trace/adopt.py",
    "trace/stack.py",
    "bpf/encoded.py",
    "bpf/translate.py",
    "checksum.py",
    "trace/mark.py",
    "trace/model.py",
    "trace/predict.py",
    "trace/program.py",
    "trace/question.py",
    "trace/rule_text.py",
    "trace/sighting.py",
    "trace/tables.py",
    "trace/verdict.py",
    "tunnel/blocks.py",
    "tunnel/maps.py",
    "tunnel/programs.py",
    "store/allocate.py",
    "topology/ipam.py",
    "topology/model.py",
    "plan",
    "overlay",
    "service",
    "explain/choices.py",
    "explain/explain.py",
    "explain/gaps.py",
    "explain/lines.py",
    "explain/model.py",
    "explain/nft.py",
    "explain/report.py",
    "explain/saved.py",
    "explain/tree.py",
    "explain/words.py",
    "dns/answer.py",
    "dns/names.py",
    "dns/places.py",
    "dns/records.py",
    "dns/zone.py",
    "echo/http.py",
    "probes/readiness.py",
    "graph",
    "proxy/iptables_rules.py",
    "proxy/listing.py",
    "proxy/nftables_objects.py",
    "proxy/proxier.py",
    "proxy/retry.py",
    "check",
    "bench/figures.py",
    "control/resources.py",
    "controllers",
    "topology/system.py",
    "names.py",
    "tunnel/config.py",
    "tunnel/limit.py",
    "tunnel/join.py",
    "tunnel/packet.py",
    "tunnel/routes.py",
    "tunnel/rows.py",
    "tunnel/slots.py",
    "tunnel/split.py",
    "tunnel/vnet.py",
    "vm/console.py",
    "vm/lines.py",
    "vm/pcap.py",
    "vm/qemu.py",
    "vm/recipe.py",
    "vm/switch.py",
)
EFFECTS = {"socket", "subprocess", "os", "ctypes", "pyroute2", "scapy", "threading", "time"}
MAY_USE_KERNEL = (
    "bpf/loader.py",
    "tunnel/endpoint.py",
    "tunnel/fastpath.py",
    "tunnel/offloads.py",
    "tunnel/ports.py",
    "kernel",
    "bench",
    "control",
    "probes",
    "proxy",
    "supervisor",
    "trace",
    "found.py",
    "lab.py",
    "doctor.py",
    "pytest_plugin.py",
    "cli",
)


def modules(*places: str) -> list[Path]:
    return [
        file for place in places for file in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
    ]


def imports(file: Path) -> Iterator[str]:
    """Yield every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", modules(*PURE), ids=name_of)
def test_pure_modules_have_no_effects(file: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(file)} & EFFECTS


@pytest.mark.parametrize(
    "file", [f for f in ROOT.rglob("*.py") if not name_of(f).startswith(MAY_USE_KERNEL)], ids=name_of
)
def test_the_kernel_is_reached_from_above_only(file: Path) -> None:
    assert not [name for name in imports(file) if name.startswith("netlab.kernel")]


@pytest.mark.parametrize("file", modules("kernel", "plan", "overlay", "topology", "store", "graph"), ids=name_of)
def test_nothing_below_knows_the_command_line(file: Path) -> None:
    assert not [name for name in imports(file) if name.startswith(("click", "netlab.cli", "netlab.lab"))]


@pytest.mark.parametrize("file", list(ROOT.rglob("*.py")), ids=name_of)
def test_heavy_libraries_are_imported_where_they_are_used(file: Path) -> None:
    """At module level only in modules that are themselves imported late: `netlab --help` must be instant."""
    late = ("topology", "manifest", "packets.py", "kernel/features.py", "kernel/feature_probes.py")
    tree = ast.parse(file.read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    found = {name.partition(".")[0] for node in top for name in imports_of(node)}
    heavy = found & {"scapy", "pyroute2", "rich", "pydantic", "yaml", "matplotlib", "netaddr"}
    assert not heavy or name_of(file).startswith(late)


def imports_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


@pytest.mark.parametrize("file", list(Path(__file__).parents[1].rglob("*.py")), ids=lambda file: file.stem)
def test_no_frame_leaves_its_destination_to_scapy(file: Path) -> None:
    """It would ask for it by ARP on this machine's own network, in promiscuous mode."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Ether" and not call.args]
    assert all({"dst", None} & {keyword.arg for keyword in call.keywords} for call in made)
