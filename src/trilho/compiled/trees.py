"""Tree ensembles: kept as plain arrays, evaluated by treelite's general inference library.

Treelite's own checkpoint format is not used: its reader trusts what it reads. The arrays are
checked here, cell by cell, and treelite then builds its trees from them, which also takes less
time than reading a checkpoint.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from treelite.core import _LIB, TreeliteError, _check_call
from treelite.gtil.gtil import GTILConfig
from treelite.model import Model

from trilho.compiled.operations import (
    Arguments,
    Run,
    Shape,
    Value,
    block_of,
    operation,
    width_of,
)
from trilho.errors import IntegrityError

LEAF = -1
MAX_NODES = 1 << 28
MAX_CELLS = 1 << 21  # of one value for each row and tree
BITSET = 8  # words of 32 bits: categories are numbered from 0 to 255

# A node as treelite's loader of histogram gradient boosting takes it.
NODE = np.dtype(
    [
        *[("value", "<f8"), ("count", "<u4"), ("feature", "<i4"), ("threshold", "<f8")],
        *[("missing_left", "u1"), ("left", "<u4"), ("right", "<u4"), ("gain", "<f8")],
        *[("depth", "<u4"), ("is_leaf", "u1"), ("bin", "u1"), ("categorical", "u1")],
        ("bitset", "<u4"),
    ]
)


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


@operation("trees")
def _trees(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Sum or mean of the trees' leaves.

    `kind` is "sum" (tree i adds to output i modulo `outputs`), "sigmoid" (of the sum, one output),
    "mean" (each leaf gives all outputs), or "single" (a sum that starts at `base`, computed in
    single precision).
    """
    width = width_of(shapes)
    outputs = args.get("outputs", int)
    kind = args.choice("kind", ("sum", "sigmoid", "mean", "single"))
    shape = block_of(outputs)
    trees = _read(args, width, outputs, kind)
    try:
        build = _build_means if kind == "mean" else _build_sums
        model = build(trees, width, outputs, kind)
    except (TreeliteError, ValueError) as error:
        raise IntegrityError(f"Its trees cannot be built: {error}") from None
    if kind == "single":
        base = args.array("base", width=outputs).astype(np.float32)
        return _single_precision(model, len(trees.sizes), base), shape
    predict = _predictor(model, outputs, "default" if kind == "sigmoid" else "raw")
    return (lambda values: predict(values[0])), shape


def _read(args: Arguments, width: int, outputs: int, kind: str) -> Trees:
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


# ── treelite ──────────────────────────────────────────────────────────────────────────────────────


def _build_sums(trees: Trees, width: int, outputs: int, kind: str) -> Model:
    """By the loader of histogram gradient boosting, which knows categories and missing values."""
    leaf = trees.left == LEAF
    nodes = np.zeros(len(leaf), NODE)
    nodes["value"] = np.where(leaf, trees.number, 0.0)
    nodes["threshold"] = np.where(leaf, 0.0, trees.number)
    nodes["feature"] = trees.feature
    nodes["missing_left"] = trees.missing_left
    nodes["left"], nodes["right"] = (np.where(leaf, 0, c) for c in (trees.left, trees.right))
    nodes["is_leaf"] = leaf
    if len(trees.bitset):
        nodes["categorical"] = (trees.bitset >= 0) & ~leaf
        nodes["bitset"] = np.maximum(trees.bitset, 0)
    bitsets = np.zeros(max(BITSET, len(trees.bitsets)), np.uint32)
    bitsets[: len(trees.bitsets)] = trees.bitsets
    known, known_place = np.zeros((1, BITSET), np.uint32), np.zeros((width, 2), np.uint32)
    features, base = np.arange(width, dtype=np.int32), np.zeros(outputs)
    count = len(trees.sizes)
    arguments = (
        _at(trees.sizes),
        _at_each(nodes, np.cumsum(trees.sizes) - trees.sizes),
        ctypes.c_int(NODE.itemsize),
        ctypes.c_int32(len(bitsets) // BITSET),
        _at_each(bitsets, np.zeros(count, np.int64)),
        *(_at(known), _at(known_place), _at(features), None, _at(base)),
    )
    handle = ctypes.c_void_p()
    size = (ctypes.c_int(count // outputs), ctypes.c_int(width))
    if outputs == 1 and kind != "sigmoid":
        load = _LIB.TreeliteLoadSKLearnHistGradientBoostingRegressorEx
        _check_call(load(*size, *arguments, b"squared_error", ctypes.byref(handle)))
    else:
        load = _LIB.TreeliteLoadSKLearnHistGradientBoostingClassifier
        classes = ctypes.c_int(max(2, outputs))  # two: one output, and its sigmoid
        _check_call(load(*size, classes, *arguments, ctypes.byref(handle)))
    return Model(handle=handle)


def _build_means(trees: Trees, width: int, outputs: int, _kind: str) -> Model:
    """By the loader of random forests, with one target for each output."""
    leaf = trees.left == LEAF
    values = np.zeros((len(leaf), outputs))
    values[leaf] = trees.leaves
    left, right, feature = (
        a.astype(np.int64) for a in (trees.left, trees.right, np.where(leaf, 0, trees.feature))
    )
    threshold = np.where(leaf, 0.0, trees.number)
    missing_left = trees.missing_left.astype(np.uint8)
    samples, weights = np.ones(len(leaf), np.int64), np.ones(len(leaf))
    starts = np.cumsum(trees.sizes) - trees.sizes
    handle = ctypes.c_void_p()
    _check_call(
        _LIB.TreeliteLoadSKLearnRandomForestRegressorEx(
            *(ctypes.c_int(n) for n in (len(trees.sizes), width, outputs)),
            _at(trees.sizes),
            *(_at_each(a, starts) for a in (left, right, feature, threshold)),
            _at_each(values, starts * outputs),
            *(_at_each(a, starts) for a in (missing_left, samples, weights, weights)),
            ctypes.byref(handle),
        )
    )
    return Model(handle=handle)


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _at_each(array: NDArray[Any], starts: NDArray[np.int64]) -> ctypes.Array[ctypes.c_void_p]:
    """Pointers to the cells of an array that start each tree's."""
    places = (array.ctypes.data + starts * array.itemsize).tolist()
    return (ctypes.c_void_p * len(places))(*places)


def _predictor(model: Model, outputs: int, kind: str) -> Callable[[Value], Value]:
    """Return what evaluates a float64 block.

    `treelite.gtil.predict` spends two thirds of a one-row prediction in making a configuration
    anew and in type checks; here both are done once. The C call releases the interpreter lock and
    only reads the model, so threads may share it.
    """
    # one thread: whoever has many rows gives them to threads in chunks
    config = GTILConfig(nthread=1, predict_type=kind)
    call, handle, settings = _LIB.TreeliteGTILPredict, model.handle, config.handle
    pointer = ctypes.byref
    first: Any = ctypes.c_double.from_buffer  # three times faster than the `ctypes` of an array
    count = ctypes.c_uint64

    def predict(block: Value) -> Value:
        rows = len(block)
        out = np.zeros((rows, outputs))
        try:
            cell = first(block)
        except TypeError:  # it is read-only, or not in C order
            block = np.array(block, order="C")
            cell = first(block)
        failed = call(handle, pointer(cell), b"float64", count(rows), pointer(first(out)), settings)
        if failed:
            raise IntegrityError("The compiled form's trees cannot be evaluated.")
        return out

    predict.kept = model, config  # type: ignore[attr-defined]  # they free what they hold
    return predict


def _single_precision(model: Model, trees: int, base: NDArray[np.float32]) -> Run:
    """Add the trees' values one after the other in single precision."""
    by_tree = _predictor(model, trees, "score_per_tree")
    outputs = len(base)
    step = max(1, MAX_CELLS // trees)

    def add(block: Value) -> Value:
        parts = by_tree(block).astype(np.float32).reshape(len(block), -1, outputs)
        start = np.broadcast_to(base, (len(parts), 1, outputs))
        sums = np.cumsum(np.concatenate([start, parts], axis=1), axis=1, dtype=np.float32)
        return sums[:, -1].astype(np.float64)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        if len(block) <= step:
            return add(block)
        return np.concatenate([add(block[i : i + step]) for i in range(0, len(block), step)])

    return run
