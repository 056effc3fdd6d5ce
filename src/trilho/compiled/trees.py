"""Trees as plain arrays, which are checked here, cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.operations import Arguments, Value
from trilho.errors import IntegrityError

LEAF = -1
MAX_NODES = 1 << 28
BITSET = 8  # words of 32 bits: categories are numbered from 0 to 255

Evaluate = Callable[[Value], Value]  # from a block to one


class Trees(NamedTuple):
    """Trees whose nodes stand one after the other; the first of each tree is its root.

    Attributes
    ----------
    sizes : (trees,)
        Nodes of each tree.
    left, right : (nodes,)
        Place of the children in the same tree, behind their parent; `LEAF` at a leaf.
    feature, number, missing_left : (nodes,)
        A row goes left if its feature is at most `number`, or if it is missing and `missing_left`
        is 1. At a leaf, `number` is its value.
    leaves : (leaves, outputs) or empty
        Values of the leaves, if each gives all outputs.
    bitset : (nodes,) or empty
        Row of `bitsets` at a node that sends some categories to the left, else -1.
    bitsets : (sets * BITSET,)
        The categories, 32 to a word.
    """

    sizes: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    feature: NDArray[Any]
    number: NDArray[Any]
    missing_left: NDArray[Any]
    leaves: NDArray[Any]
    bitset: NDArray[Any]
    bitsets: NDArray[Any]

    @property
    def roots(self) -> NDArray[Any]:
        """Place of each tree's first node among all."""
        roots: NDArray[Any] = np.cumsum(self.sizes) - self.sizes
        return roots


def read(args: Arguments, width: int, outputs: int, kind: str) -> Trees:
    """Take the trees' arrays, and refuse any that would read outside of a row or run in circles."""
    sizes = args.whole("sizes", 1, MAX_NODES)
    nodes = int(sizes.sum())
    left, right = (args.whole(side, LEAF, MAX_NODES) for side in ("left", "right"))
    feature = args.whole("feature", 0, width)
    missing_left = args.whole("missing_left", 0, 2)
    number = args.array("number", width=nodes)
    for array in (left, right, feature, missing_left):
        if len(array) != nodes:
            raise IntegrityError("The arrays of its trees differ in length.")
    if not nodes:
        raise IntegrityError("It has no trees.")
    starts = np.cumsum(sizes) - sizes
    place = np.arange(nodes) - np.repeat(starts, sizes)
    size = np.repeat(sizes, sizes)
    inner = left != LEAF
    for child in (left, right):
        wrong = np.where(inner, (child <= place) | (child >= size), child != LEAF)
        if wrong.any():
            raise IntegrityError(
                f"Node {int(wrong.argmax())} of its trees has a child out of place."
            )
    leaves = args.array("leaves", ndim=2)
    bitset = args.whole("bitset", -1, MAX_NODES)
    bitsets = args.whole("bitsets", 0, 1 << 32)
    if kind == "mean":
        if leaves.shape != (int((~inner).sum()), outputs) or len(bitset):
            raise IntegrityError("The leaves of its trees do not fit.")
    elif (
        len(leaves)
        or len(sizes) % outputs
        or outputs == 2
        or (outputs > 1 and kind == "sigmoid")
        or len(bitset) not in (0, nodes)
        or len(bitsets) % BITSET
        or (len(bitset) and bitset.max() >= len(bitsets) // BITSET)
    ):
        raise IntegrityError("The leaves or categories of its trees do not fit.")
    return Trees(sizes, left, right, feature, number, missing_left, leaves, bitset, bitsets)
