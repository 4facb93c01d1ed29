"""Tensors among the arguments and results of operations, for modes that look at every one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def tensors(tree: Iterable) -> list[Tensor]:
    """Those in nested lists, tuples and dictionaries; a quarter of the time of ``tree_leaves``."""
    found = []
    for entry in tree:
        if isinstance(entry, Tensor):
            found.append(entry)
        elif isinstance(entry, list | tuple):
            found += tensors(entry)
        elif isinstance(entry, dict):
            found += tensors(entry.values())
    return found
