"""Trees by bit masks give, to the last bit, what treelite gives node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trilho.compiled import ensembles, gtil, masks
from trilho.compiled.trees import BITSET, LEAF, Trees
from trilho.errors import IntegrityError

WIDTH = 5
ODD = (np.nan, np.inf, -np.inf, -0.0, 0.0, 0.5, -0.5, -1.0, 31.9, 255.0, 255.5, 256.0, 1e18, 1e-320)
# Values that rows and thresholds have in common, so that many are equal.
GRID = st.one_of(st.sampled_from(ODD), st.integers(-3, 40).map(float), st.floats(width=64))
SIZES = (1, 2, masks.FEW_ROWS, masks.FEW_ROWS + 1, 300, masks.MANY_ROWS)


def same(leaves: NDArray[Any]) -> NDArray[Any]:
    return leaves


def planted(random: np.random.Generator, inner: int, grid: list[float], *, few: bool) -> Any:
    """One tree of so many inner nodes: its arrays, parents first."""
    left, right, feature, number, missing, sets, words = [], [], [], [], [], [], []

    def grow(inner: int) -> int:
        place = len(left)
        for column in (left, right):
            column.append(LEAF)
        feature.append(0 if few else int(random.integers(WIDTH)))
        missing.append(int(random.integers(2)))
        sets.append(-1)
        if not inner:
            number.append(float(random.normal()))
            return place
        finite = [value for value in grid if value == value] or [0.0]
        number.append(float(random.choice(finite)))
        if random.random() < 0.3:
            sets[-1] = len(words)
            words.append(random.integers(0, 1 << 32, BITSET, dtype=np.uint64))
        smaller = int(random.integers(inner))
        left[place] = grow(smaller)
        right[place] = grow(inner - 1 - smaller)
        return place

    grow(inner)
    return left, right, feature, number, missing, sets, words


def forest(planted: list[Any]) -> Trees:
    before = np.cumsum([0] + [len(tree[6]) for tree in planted]).tolist()
    sets = [
        np.where(np.array(tree[5]) >= 0, np.array(tree[5]) + shift, -1)
        for tree, shift in zip(planted, before, strict=False)
    ]
    words = [word for tree in planted for word in tree[6]]
    joined = [np.concatenate([np.array(tree[i]) for tree in planted]) for i in range(5)]
    return Trees(
        np.array([len(tree[0]) for tree in planted]),
        *joined,
        np.zeros((0, 1)),
        np.concatenate(sets) if words else np.zeros(0, np.int64),
        np.concatenate([*words, np.zeros(0)]).astype(np.int64),
    )


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    inner=st.lists(st.integers(0, masks.MAX_LEAVES - 1), min_size=1, max_size=9),
    grid=st.lists(GRID, min_size=1, max_size=12),
    few=st.booleans(),
)
def test_each_leaf_is_treelites(seed: int, inner: list[int], grid: list[float], few: bool) -> None:
    random = np.random.default_rng(seed)
    trees = forest([planted(random, n, grid, few=few) for n in inner])
    ours = masks.evaluator(trees, same)
    assert ours is not None
    theirs = gtil.evaluator(trees, WIDTH, 1, "each")
    for rows in SIZES:
        block = random.choice([*grid, *ODD], (rows, WIDTH))
        assert ours(block).tobytes() == theirs(block).tobytes()  # which tells -0.0 from 0.0


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_row_gets_the_same_bits_alone_and_among_others(outputs: int) -> None:
    random = np.random.default_rng(0)
    grid = random.normal(size=200).tolist()
    trees = forest([planted(random, 30, grid, few=False) for _ in range(30)])
    block = random.normal(size=(masks.STEP_WORDS // 30 + 100, WIDTH))
    predict = masks.evaluator(trees, lambda leaves: ensembles._add(leaves, outputs=outputs))
    assert predict is not None
    expected = gtil.evaluator(trees, WIDTH, outputs, "sum")(block)
    assert predict(block).tobytes() == expected.tobytes()
    for rows in (1, 2, ensembles.FEW_ROWS, ensembles.FEW_ROWS + 1):
        parts = [predict(block[i : i + rows]) for i in range(0, 300, rows)]
        assert np.concatenate(parts)[:300].tobytes() == expected[:300].tobytes()


@pytest.mark.parametrize("rows", [1, 2, ensembles.FEW_ROWS, ensembles.FEW_ROWS + 1])
def test_a_sum_of_nothing_is_zero_and_not_less(rows: int) -> None:
    assert ensembles._add(np.full((rows, 4), -0.0), outputs=1).tobytes() == bytes(8 * rows)


@pytest.mark.parametrize("rows", [1, 24, 25])
def test_many_trees_are_evaluated_in_little_memory(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    random = np.random.default_rng(0)
    grid = random.normal(size=200).tolist()
    trees = forest([planted(random, 30, grid, few=False) for _ in range(20)])
    block = random.normal(size=(rows, WIDTH))
    whole = masks.evaluator(trees, same)
    assert whole is not None
    expected = whole(block)
    monkeypatch.setattr(masks, "FEW_WORDS", 0)
    monkeypatch.setattr(masks, "STEP_WORDS", 60)  # three rows at a time
    assert np.array_equal(whole(block), expected)


def tree(**changed: Any) -> Trees:
    """A root with two leaves."""
    arrays: dict[str, NDArray[Any]] = {
        "sizes": np.array([3]),
        "left": np.array([1, LEAF, LEAF]),
        "right": np.array([2, LEAF, LEAF]),
        "feature": np.array([0, 0, 0]),
        "number": np.array([0.5, 1.0, 2.0]),
        "missing_left": np.array([0, 0, 0]),
        "leaves": np.zeros((0, 1)),
        "bitset": np.zeros(0, np.int64),
        "bitsets": np.zeros(0, np.int64),
    }
    return Trees(**(arrays | changed))


def test_a_leaf_with_two_parents_is_refused() -> None:
    with pytest.raises(IntegrityError, match="Node 1 of its trees has two parents"):
        masks.evaluator(tree(right=np.array([1, LEAF, LEAF])), same)
    many = 60  # doubled at each level, it would take for ever
    steps = np.append(np.arange(1, many), LEAF)
    with pytest.raises(IntegrityError, match="two parents"):
        masks.evaluator(
            tree(
                sizes=np.array([many]),
                left=steps,
                right=steps,
                feature=np.zeros(many, int),
                number=np.zeros(many),
                missing_left=np.zeros(many, int),
            ),
            same,
        )


def test_a_node_that_nothing_leads_to_is_no_trouble() -> None:
    lonely = tree(left=np.array([LEAF] * 3), right=np.array([LEAF] * 3))
    evaluate = masks.evaluator(lonely, same)
    assert evaluate is not None
    assert evaluate(np.zeros((20, 1))).tolist() == [[0.5]] * 20


def test_what_does_not_suit_is_left_to_treelite(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    grid = [0.0, 1.0, 2.0]
    assert masks.evaluator(forest([planted(random, 63, grid, few=False)]), same) is not None
    assert masks.evaluator(forest([planted(random, 64, grid, few=False)]), same) is None
    assert masks.evaluator(tree(number=np.array([np.nan, 1.0, 2.0])), same) is None
    monkeypatch.setattr(masks, "MAX_TABLE_BYTES", 2)
    assert masks.evaluator(tree(), same) is None
    monkeypatch.setattr(masks, "MAX_TABLE_BYTES", 3)  # three places, one tree, one byte
    assert masks.evaluator(tree(), same) is not None
    monkeypatch.setattr(masks, "MAX_GROUPS", 0)
    assert masks.evaluator(tree(), same) is None


@pytest.mark.parametrize("value", [-1e308, -745.2, -709.79, -709.78, -1.0, 0.0, 40.0, np.nan])
def test_the_sigmoid_has_the_bits_of_scikit_learns(value: float) -> None:
    from scipy.special import expit

    block = np.array([[value], [0.3]])
    assert np.array_equal(ensembles._expit(block), expit(block), equal_nan=True)
