"""Trees as the arrays that the serving form keeps; see `trilho.compiled.trees.Trees`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.trees import BITSET, Trees
from trilho.training.refused import CompileRefused


class Forest(Trees):
    """Trees whose nodes stand one after the other, while they are brought together."""

    @staticmethod
    def of_tree(**arrays: NDArray[Any]) -> Forest:
        """One tree, whose nodes may stand in any order; the root is the first."""
        given = {"bitset": np.full(len(arrays["left"]), -1), "bitsets": np.zeros((0, BITSET))}
        given |= {"leaves": np.zeros((0, 1))} | arrays
        return _parents_first(Forest(sizes=np.array([len(arrays["left"])]), **given))

    @staticmethod
    def join(trees: list[Forest]) -> Forest:
        """All trees in one; refers to categories by their place among all."""
        before = np.cumsum([0] + [len(t.bitsets) for t in trees])
        shifted = [
            t._replace(bitset=np.where(t.bitset >= 0, t.bitset + shift, -1))
            for t, shift in zip(trees, before.tolist(), strict=False)
        ]
        return Forest(*(np.concatenate(parts) for parts in zip(*shifted, strict=True)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, each of the smallest type that holds it."""
        categorical = bool((self.bitset >= 0).any())
        empty = np.zeros(0, np.int8)
        whole = {
            **{name: getattr(self, name) for name in ("sizes", "left", "right", "feature")},
            "missing_left": self.missing_left,
            "bitset": self.bitset if categorical else empty,
            "bitsets": self.bitsets.ravel() if categorical else empty,
        }
        floats = {"number": np.asarray(self.number, np.float64), "leaves": self.leaves}
        return {name: _smallest(array) for name, array in whole.items()} | floats


def tree(fitted: Any) -> Forest:
    """A tree of `sklearn.tree._tree.Tree`, without its values."""
    leaf = fitted.children_left == -1
    return Forest.of_tree(
        left=fitted.children_left,
        right=fitted.children_right,
        feature=np.where(leaf, 0, fitted.feature),
        number=np.where(leaf, 0.0, fitted.threshold),
        missing_left=np.asarray(fitted.missing_go_to_left),
    )


def constant(value: float) -> Forest:
    """A tree of one leaf."""
    nowhere = np.array([-1])
    zero = np.zeros(1, np.int8)
    return Forest.of_tree(
        left=nowhere, right=nowhere, feature=zero, number=np.array([value]), missing_left=zero
    )


def _parents_first(forest: Forest) -> Forest:
    """The tree, if its nodes stand so that each child follows its parent."""
    place = np.arange(len(forest.left))
    inner = forest.left != -1
    for child in (forest.left, forest.right):
        if (child[inner] <= place[inner]).any():
            raise CompileRefused("a tree's nodes are out of order")
    return forest


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(array).astype(np.int64)
    for dtype in (np.int8, np.int16, np.int32):
        limits = np.iinfo(dtype)
        if not len(array) or (array.min() >= limits.min and array.max() <= limits.max):
            return array.astype(dtype)
    return array
