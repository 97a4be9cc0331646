"""The topology files of the benchmarks."""

from __future__ import annotations

LAB = "bench"


def one_node(pods: int) -> str:
    """Return the file of one node with so many pods on its bridge (a bridge has at most 1,023 ports)."""
    return f"""\
name: {LAB}
nodeCIDRMaskSizeIPv4: 20
backend: bridge
nodes: 1
pods: [{{name: p, replicas: {pods}}}]
"""


def many_nodes(nodes: int, pods: int, backend: str = "vxlan") -> str:
    """Return the file of a cluster with its pods dealt out to the nodes."""
    return f"""\
name: {LAB}
backend: {backend}
nodes: {nodes}
pods: [{{name: p, replicas: {pods}}}]
"""
