"""netlab: container-networking labs made of namespaces, veth pairs and bridges.

Read in this order: `topology.model` (what a lab is), `plan.objects` (what the kernel should hold), `plan.build`
and `plan.diff` (how one becomes the other), `kernel.linux` (how that is done), `lab` (the main flow on one page).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netlab.lab import Lab as Lab

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the public API on first use, so that `netlab --help` stays instant."""
    if name == "Lab":
        from netlab.lab import Lab

        return Lab
    raise AttributeError(f"module 'netlab' has no attribute {name!r}")
