"""Where a node of a stage stands among the others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A node's place among the nodes of a stage."""

    index: int
    """From 0; the first node holds the store in which the nodes meet."""
    name: str
    """Name by which people know the node."""
    head: str
    """Address of the first node."""
