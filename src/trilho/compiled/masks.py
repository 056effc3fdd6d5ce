"""Trees of few leaves by bit masks: numpy alone, and several times faster than node by node.

A tree's leaves are numbered from the left, and each is a bit of a word. A node whose test fails
rules out the leaves of its left child; what is ruled out by no node's failing test contains, as its
lowest bit, the leaf that the row ends in. Which tests of a feature fail depends only on where the
value lies between the feature's thresholds, so the words of all trees are looked up by that place,
feature by feature, and combined by `and`.

The method is QuickScorer's: C. Lucchese et al., "QuickScorer: a fast algorithm to rank documents
with additive ensembles of regression trees", SIGIR 2015.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.trees import BITSET, LEAF, Evaluate, Trees
from trilho.errors import IntegrityError

MAX_LEAVES = 64
# Beyond so many features, looking each up takes longer than to walk through the trees.
MAX_GROUPS = 100
MAX_TABLE_BYTES = 64 << 20
CATEGORIES = 32 * BITSET  # then come the places of what is no category, and of what is missing
# Up to so many rows, Python's own bisection is faster than numpy's for each feature ...
FEW_ROWS = 24
# ... up to so many words, all features at once are faster than one after the other ...
FEW_WORDS = 1 << 16
# ... and from so many rows on, to compare with each threshold is faster than to bisect.
MANY_ROWS = 2048
FEW_CUTS = 64
STEP_WORDS = 1 << 16  # what is combined at once stays in the cache

Words = NDArray[Any]  # of unsigned integers, with a bit for each leaf of the largest tree
WORDS = (np.uint8, np.uint16, np.uint32, np.uint64)


class Group(NamedTuple):
    """The tests of one feature.

    Attributes
    ----------
    feature
        Which column of the block.
    cuts : (thresholds,) or None
        Rising; None where categories are tested.
    first
        Row of the table that belongs to its lowest place.
    """

    feature: int
    cuts: NDArray[Any] | None
    first: int

    def places(self, column: NDArray[Any]) -> NDArray[np.intp]:
        """Return the row of the table for each value."""
        found: NDArray[np.intp]
        if self.cuts is not None and len(column) >= MANY_ROWS and len(self.cuts) <= FEW_CUTS:
            number, above = np.zeros(len(column), np.uint8), np.empty(len(column), np.bool_)
            for cut in self.cuts.tolist():
                np.add(number, np.greater(column, cut, out=above), out=number)
            number += np.isnan(column) * np.uint8(len(self.cuts) + 1)
            found = number.astype(np.intp)
        elif self.cuts is not None:
            # what is missing sorts behind all thresholds, and its place is one further
            found = np.searchsorted(self.cuts, column) + np.isnan(column)
        else:
            sound = (column >= 0) & (column < CATEGORIES)  # NaN is neither
            found = np.where(sound, column, CATEGORIES + np.isnan(column)).astype(np.intp)
        return found + self.first


def evaluator(trees: Trees, add: Evaluate) -> Evaluate | None:
    """Return what adds the values of the leaves that each row ends in.

    `add` takes them, (rows, trees), for some rows at a time. None for trees that are not suited:
    too many leaves, features or thresholds.

    Raises
    ------
    IntegrityError
        A node has two parents.
    """
    inner = trees.left != LEAF
    tested = trees.feature[inner] * 2 + (_sets(trees)[inner] >= 0)
    if len(np.unique(tested)) > MAX_GROUPS or np.isnan(trees.number[inner]).any():
        return None
    first, count = _leaves(trees)
    leaves_of = count[trees.roots]
    most = leaves_of.max()
    if most > MAX_LEAVES:
        return None
    word = next(word for word in WORDS if most <= np.iinfo(word).bits)
    found = _table(trees, first, count, word)
    if found is None:
        return None
    groups, table = found
    before = np.cumsum(leaves_of) - leaves_of  # leaves of the trees before
    values = np.empty(int(leaves_of.sum()))
    leaf = np.flatnonzero(~inner & (count > 0))
    values[(before[_tree(trees)] + first)[leaf]] = trees.number[leaf]
    leaves = _evaluator(groups, table)

    def predict(block: NDArray[Any]) -> NDArray[Any]:
        parts = [add(values.take(before + lowest, mode="clip")) for lowest in leaves(block)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return predict


def _evaluator(groups: list[Group], table: Words) -> Callable[[NDArray[Any]], Iterator[Words]]:
    """Return what gives the number of each row's leaf in each tree, for some rows at a time."""
    one = table.dtype.type(1)
    count = table.shape[1]
    # for the bisection: feature, thresholds, place, place of what is missing
    numbers = [
        (g.feature, g.cuts.tolist(), g.first, g.first + len(g.cuts) + 1)
        for g in groups
        if g.cuts is not None
    ]
    categories = [(g.feature, g.first) for g in groups if g.cuts is None]

    def places(row: list[float]) -> list[int]:
        found = [
            first + bisect_left(cuts, value) if (value := row[feature]) == value else missing
            for feature, cuts, first, missing in numbers
        ]
        for feature, first in categories:
            value = row[feature]
            sound = 0 <= value < CATEGORIES
            found.append(first + (int(value) if sound else CATEGORIES + (value != value)))
        return found

    def words(block: NDArray[Any]) -> Iterator[Words]:
        rows = len(block)
        if rows <= FEW_ROWS:
            of_groups = np.array(list(map(places, block.tolist())), np.intp).T
        else:
            columns = np.ascontiguousarray(block.T)
            of_groups = np.stack([group.places(columns[group.feature]) for group in groups])
        if rows * len(groups) * count <= FEW_WORDS:
            yield np.bitwise_and.reduce(table.take(of_groups, axis=0), axis=0)
            return
        step = max(1, STEP_WORDS // count)
        for start in range(0, rows, step):
            first, *others = (each[start : start + step] for each in of_groups)
            # "clip" only because "raise" would need a buffer: all places are in the table
            left = table.take(first, axis=0, mode="clip")
            more = np.empty_like(left)
            for other in others:
                table.take(other, axis=0, out=more, mode="clip")
                np.bitwise_and(left, more, out=left)
            yield left

    def leaves(block: NDArray[Any]) -> Iterator[Words]:
        # the number of the lowest bit: of the ones below it
        return (np.bitwise_count(~left & (left - one)) for left in words(block))

    return leaves


# ── from nodes to words ───────────────────────────────────────────────────────────────────────────


def _tree(trees: Trees) -> NDArray[Any]:
    """The tree of each node."""
    return np.repeat(np.arange(len(trees.sizes)), trees.sizes)


def _sets(trees: Trees) -> NDArray[Any]:
    """The set of categories of each node, -1 where a number is compared."""
    return trees.bitset if len(trees.bitset) else np.full(len(trees.left), -1)


def _leaves(trees: Trees) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the number of each node's leftmost leaf, and how many leaves it has; 0 if no root
    leads to it.
    """
    shift = np.repeat(trees.roots, trees.sizes)
    left, right = trees.left + shift, trees.right + shift
    levels = [trees.roots]
    seen = 0
    while len(levels[-1]):
        seen += len(levels[-1])
        level = levels[-1][trees.left[levels[-1]] != LEAF]
        if seen > len(left):
            break
        levels.append(np.concatenate([left[level], right[level]]))
    reached = np.bincount(np.concatenate(levels), minlength=len(left))
    if reached.max() > 1:
        raise IntegrityError(f"Node {int(reached.argmax())} of its trees has two parents.")
    first, count = np.zeros((2, len(left)), np.int64)
    count[reached.astype(bool) & (trees.left == LEAF)] = 1
    inner = [level[trees.left[level] != LEAF] for level in levels]
    for level in reversed(inner):
        count[level] = count[left[level]] + count[right[level]]
    for level in inner:
        first[left[level]] = first[level]
        first[right[level]] = first[level] + count[left[level]]
    return first, count


def _table(
    trees: Trees, first: NDArray[Any], count: NDArray[Any], word: type[np.unsignedinteger[Any]]
) -> tuple[list[Group], Words] | None:
    """Return the groups, and for each of their places what all its failing tests leave over; None
    if that is too much.
    """
    tree, sets = _tree(trees), _sets(trees)
    nodes = np.flatnonzero((trees.left != LEAF) & (count > 0))
    gone = trees.left[nodes] + trees.roots[tree[nodes]]
    full = np.iinfo(word).max
    one, length, shift = (np.asarray(a, np.uint64) for a in (1, count[gone], first[gone]))
    left_over = np.zeros(len(first), word)
    left_over[nodes] = ~(((one << length) - one) << shift).astype(word)
    groups: list[Group] = []
    parts: list[Words] = []
    height = 0
    for feature in np.unique(trees.feature[nodes]).tolist():
        of_feature = nodes[trees.feature[nodes] == feature]
        for categorical in (False, True):
            chosen = of_feature[(sets[of_feature] >= 0) == categorical]
            if not len(chosen):
                continue
            cuts = None if categorical else np.unique(trees.number[chosen])
            more = CATEGORIES + 2 if cuts is None else len(cuts) + 2
            if (height + more) * len(trees.sizes) * np.dtype(word).itemsize > MAX_TABLE_BYTES:
                return None
            part = np.full((more, len(trees.sizes)), full, word)
            missing = chosen[trees.missing_left[chosen] == 0]
            np.bitwise_and.at(part[-1], tree[missing], left_over[missing])
            if cuts is None:
                _categories(part, chosen, tree, sets, left_over, trees.bitsets)
            else:
                above = np.searchsorted(cuts, trees.number[chosen]) + 1
                np.bitwise_and.at(part, (above, tree[chosen]), left_over[chosen])
                np.bitwise_and.accumulate(part[:-1], axis=0, out=part[:-1])
            groups.append(Group(feature, cuts, height))
            parts.append(part)
            height += more
    if not groups:  # nothing but leaves
        groups, parts = [Group(0, np.zeros(0), 0)], [np.full((2, len(trees.sizes)), full, word)]
    return groups, np.concatenate(parts)


def _categories(
    part: Words,
    nodes: NDArray[Any],
    tree: NDArray[Any],
    sets: NDArray[Any],
    left_over: Words,
    bitsets: NDArray[Any],
) -> None:
    """A row goes left if its category is in the node's set; what is no category is in none."""
    bits = np.unpackbits(
        bitsets.astype("<u4").reshape(-1, BITSET).view(np.uint8), axis=1, bitorder="little"
    )
    for node in nodes.tolist():
        fails = np.append(bits[sets[node]] == 0, True)
        part[: CATEGORIES + 1, tree[node]][fails] &= left_over[node]
