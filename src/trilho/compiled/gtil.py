"""Trees by treelite's general inference library: of any size, node by node.

Treelite's own checkpoint format is not used: its reader trusts what it reads. Its trees are built
from arrays that were checked, which also takes less time than reading a checkpoint.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from treelite.core import _LIB, TreeliteError, _check_call
from treelite.gtil.gtil import GTILConfig
from treelite.model import Model

from trilho.compiled.trees import BITSET, LEAF, Evaluate, Trees
from trilho.errors import IntegrityError

# A node as treelite's loader of histogram gradient boosting takes it.
NODE = np.dtype(
    [
        *[("value", "<f8"), ("count", "<u4"), ("feature", "<i4"), ("threshold", "<f8")],
        *[("missing_left", "u1"), ("left", "<u4"), ("right", "<u4"), ("gain", "<f8")],
        *[("depth", "<u4"), ("is_leaf", "u1"), ("bin", "u1"), ("categorical", "u1")],
        ("bitset", "<u4"),
    ]
)


def evaluator(trees: Trees, width: int, outputs: int, kind: str) -> Evaluate:
    """Return what gives a block's sums or means (`kind`) of the trees' leaves, or each tree's leaf.

    Raises
    ------
    IntegrityError
        Treelite takes no such trees.
    """
    try:
        build = _build_means if kind == "mean" else _build_sums
        model = build(trees, width, outputs)
    except (TreeliteError, ValueError) as error:
        raise IntegrityError(f"Its trees cannot be built: {error}") from None
    if kind == "each":
        return _predictor(model, len(trees.sizes), "score_per_tree")
    return _predictor(model, outputs, "raw")


def _build_sums(trees: Trees, width: int, outputs: int) -> Model:
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
        _at_each(nodes, trees.roots),
        ctypes.c_int(NODE.itemsize),
        ctypes.c_int32(len(bitsets) // BITSET),
        _at_each(bitsets, np.zeros(count, np.int64)),
        *(_at(known), _at(known_place), _at(features), None, _at(base)),
    )
    handle = ctypes.c_void_p()
    size = (ctypes.c_int(count // outputs), ctypes.c_int(width))
    if outputs == 1:
        load = _LIB.TreeliteLoadSKLearnHistGradientBoostingRegressorEx
        _check_call(load(*size, *arguments, b"squared_error", ctypes.byref(handle)))
    else:
        load = _LIB.TreeliteLoadSKLearnHistGradientBoostingClassifier
        _check_call(load(*size, ctypes.c_int(outputs), *arguments, ctypes.byref(handle)))
    return Model(handle=handle)


def _build_means(trees: Trees, width: int, outputs: int) -> Model:
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
    starts = trees.roots
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


def _predictor(model: Model, outputs: int, kind: str) -> Evaluate:
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

    def predict(block: NDArray[Any]) -> NDArray[Any]:
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
