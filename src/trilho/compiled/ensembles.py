"""Tree ensembles: from a block to the sum or the mean of the trees' leaves.

Trees of few leaves are evaluated by bit masks (`masks`), all others by treelite (`gtil`). Both add
the same values in the same order, so they give the same bits.
"""

from __future__ import annotations

from functools import partial
from math import exp

import numpy as np
from numpy.typing import NDArray

from trilho.compiled import masks
from trilho.compiled.operations import (
    Arguments,
    Run,
    Shape,
    Value,
    block_of,
    operation,
    width_of,
)
from trilho.compiled.trees import Evaluate, Trees, read

MAX_CELLS = 1 << 20  # of one value for each row and tree
FEW_ROWS = 16
LOWEST = -709.782712893384  # the logarithm of the largest double, less than nothing


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
    trees = read(args, width, outputs, kind)
    predict = _predictor(args, trees, width, outputs, kind)
    if kind == "sigmoid":
        return (lambda values: _expit(predict(values[0]))), shape
    return (lambda values: predict(values[0])), shape


def _predictor(args: Arguments, trees: Trees, width: int, outputs: int, kind: str) -> Evaluate:
    if kind == "mean":
        return _by_treelite(trees, width, outputs, kind)
    if kind == "single":
        base = args.array("base", width=outputs).astype(np.float32)
        add: Evaluate = partial(_add_single, base=base)
    else:
        add = partial(_add, outputs=outputs)
    by_masks = masks.evaluator(trees, add)
    if by_masks is not None:
        return by_masks
    if kind == "single":
        return _in_steps(_by_treelite(trees, width, outputs, "each"), len(trees.sizes), add)
    return _by_treelite(trees, width, outputs, kind)


def _by_treelite(trees: Trees, width: int, outputs: int, kind: str) -> Evaluate:
    from trilho.compiled import gtil  # brings scipy: 20 MB that no other model needs

    return gtil.evaluator(trees, width, outputs, kind)


# ── from leaves to scores ─────────────────────────────────────────────────────────────────────────


def _in_steps(each: Evaluate, trees: int, add: Evaluate) -> Evaluate:
    """Evaluate some rows at a time and add what the trees say."""
    step = max(1, MAX_CELLS // trees)

    def run(block: Value) -> Value:
        if len(block) <= step:
            return add(each(block))
        parts = [add(each(block[i : i + step])) for i in range(0, len(block), step)]
        return np.concatenate(parts)

    return run


def _add(leaves: Value, *, outputs: int) -> Value:
    """Add one tree after the other, in this order for one row as for many."""
    by_output = leaves.reshape(len(leaves), -1, outputs)
    if len(leaves) <= FEW_ROWS:  # `reduce` would add a single row's in another order
        return by_output.cumsum(axis=1)[:, -1] + 0.0  # no -0.0, as `reduce` has it, and in C order
    sums: Value = np.add.reduce(np.ascontiguousarray(by_output.transpose(1, 0, 2)), axis=0)
    return sums


def _add_single(leaves: Value, *, base: NDArray[np.float32]) -> Value:
    """Add one tree after the other to `base` in single precision."""
    parts = leaves.astype(np.float32).reshape(len(leaves), -1, len(base))
    start = np.broadcast_to(base, (len(parts), 1, len(base)))
    sums = np.cumsum(np.concatenate([start, parts], axis=1), axis=1, dtype=np.float32)
    return sums[:, -1].astype(np.float64)


def _expit(block: Value) -> Value:
    """The sigmoid with the C library's bits, as scikit-learn's trees have it, not with numpy's."""
    try:
        return np.array([[1.0 / (1.0 + exp(-value))] for value in block[:, 0].tolist()])
    except OverflowError:  # where the C library has an infinity
        return np.where(block < LOWEST, 0.0, _expit(np.maximum(block, LOWEST)))
