"""Operations of models: matrices, link functions, and what combines several scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.operations import (
    NUMBERS,
    Arguments,
    Run,
    Shape,
    Value,
    block_of,
    expect,
    operation,
    same_widths,
    width_of,
)
from trilho.errors import DataError, IntegrityError

# Numbers held at a time by products of a few rows.
AT_ONCE = 65_536


@operation("linear")
def _linear(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Product with `weights` (inputs, outputs), plus `intercept`.

    Not by `@`: its libraries sum a row by itself in another order than the same row among others,
    and a row shall get the same number whichever way it comes, to the last bit.
    """
    weights = args.array("weights", ndim=2, width=width_of(shapes))
    intercept = args.array("intercept", width=weights.shape[1])
    outputs = np.ascontiguousarray(weights.T)

    def run(values: Sequence[Value]) -> Value:
        rows = values[0]
        if len(rows) * outputs.size <= AT_ONCE:
            products = np.multiply(rows[:, None, :], outputs, order="C")
            sums: Value = np.add.reduce(products, axis=2)
            return sums + intercept
        result = np.empty((len(rows), len(outputs)))
        for i, output in enumerate(outputs):
            np.add.reduce(np.multiply(rows, output, order="C"), axis=1, out=result[:, i])
        return result + intercept

    return run, block_of(weights.shape[1])


# ── link functions ────────────────────────────────────────────────────────────────────────────────


@operation("sigmoid")
def _sigmoid(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    width_of(shapes)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        if block.size == 1:  # the same bits in half the time
            return np.array([[1.0 / (1.0 + np.exp(-block.item()))]])
        return 1.0 / (1.0 + np.exp(-block))

    return run, shapes[0]


@operation("sigmoid32")
def _sigmoid32(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The sigmoid of single precision numbers, rounded at each step as XGBoost rounds."""
    width_of(shapes)
    one = np.float32(1.0)

    def run(values: Sequence[Value]) -> Value:
        denominator = exp32(np.minimum(-values[0].astype(np.float32), SIGMOID_LIMIT)) + one
        return (one / denominator).astype(np.float64)

    return run, shapes[0]


@operation("exp32")
def _exp32(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    width_of(shapes)
    return (lambda values: exp32(values[0].astype(np.float32)).astype(np.float64)), shapes[0]


@operation("softmax32")
def _softmax32(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The softmax of single precision numbers, rounded at each step as XGBoost rounds."""
    width_of(shapes)

    def run(values: Sequence[Value]) -> Value:
        block = values[0].astype(np.float32)
        powers = exp32(block - block.max(axis=1, keepdims=True))
        total = np.cumsum(powers, axis=1, dtype=np.float64)[:, -1:]
        return (powers / total.astype(np.float32)).astype(np.float64)

    return run, shapes[0]


@operation("complement32")
def _complement32(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """One minus a probability of single precision."""
    width_of(shapes)
    one = np.float32(1.0)
    return (lambda values: (one - values[0].astype(np.float32)).astype(np.float64)), shapes[0]


@operation("softmax")
def _softmax(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    width_of(shapes)

    def run(values: Sequence[Value]) -> Value:
        powers = np.exp(values[0] - values[0].max(axis=1, keepdims=True))
        shares: Value = powers / powers.sum(axis=1, keepdims=True)
        return shares

    return run, shapes[0]


@operation("exp")
def _exp(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    width_of(shapes)
    return (lambda values: np.exp(values[0])), shapes[0]


@operation("log_of_share")
def _log_of_share(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The logarithm of a probability plus `epsilon`."""
    width_of(shapes)
    epsilon = args.get("epsilon", float)
    return (lambda values: np.log(values[0] + epsilon)), shapes[0]


@operation("no_shares")
def _no_shares(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Refuse rows of scores that look like probabilities.

    scikit-learn guesses from a whole batch whether it scales scores or probabilities; a row that
    looks like the latter would get another answer alone than among others.
    """
    width_of(shapes)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        near = np.isclose(block.sum(axis=1), 1.0, rtol=1e-4)
        if near.any() and (near & ((block >= 0) & (block <= 1)).all(axis=1)).any():
            raise DataError(
                "The model cannot take this row: its scores cannot be told from probabilities."
            )
        return block

    return run, shapes[0]


@operation("complement")
def _complement(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """One minus a probability."""
    expect(shapes, 1, text=False)
    return (lambda values: 1.0 - values[0]), shapes[0]


@operation("shares")
def _shares(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Each row divided by its sum; equal shares where that is zero."""
    width = width_of(shapes)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        total = block.sum(axis=1, keepdims=True)
        empty = total == 0
        return np.where(empty, 1.0 / width, block / np.where(empty, 1.0, total))

    return run, shapes[0]


@operation("at_most_one")
def _at_most_one(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """One in place of what exceeds it by rounding."""
    width_of(shapes)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        return np.where((block > 1.0) & (block <= 1.0 + 1e-5), 1.0, block)

    return run, shapes[0]


# ── curves of calibration ─────────────────────────────────────────────────────────────────────────


@operation("interpolate")
def _interpolate(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Each column's own line through points; beyond them it goes on flat."""
    width = width_of(shapes)
    points = list(zip(args.ragged("x", width), args.ragged("y", width), strict=True))
    for x, y in points:
        if not len(x) or len(x) != len(y) or not (np.diff(x) >= 0).all():
            raise IntegrityError("The points of a line are not sorted.")

    def run(values: Sequence[Value]) -> Value:
        block = np.empty_like(values[0])
        for j, (x, y) in enumerate(points):
            if len(x) == 1:
                block[:, j] = y[0]
            else:
                clipped = np.clip(values[0][:, j], x[0], x[-1])
                block[:, j] = np.interp(clipped, x, y)
        return block

    return run, shapes[0]


# ── several models ────────────────────────────────────────────────────────────────────────────────


@operation("average")
def _average(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The mean of blocks of equal width, weighted unless `weights` is empty."""
    same_widths(shapes)
    weights = args.array("weights")
    if len(weights) not in (0, len(shapes)):
        raise IntegrityError("The weights of an average do not fit.")
    divisor = float(weights.sum()) if len(weights) else float(len(shapes))
    factors: list[float | None] = weights.tolist() if len(weights) else [None] * len(shapes)

    def run(values: Sequence[Value]) -> Value:
        total: Value | None = None
        for value, factor in zip(values, factors, strict=True):
            part = value if factor is None else value * factor
            total = part if total is None else total + part
        assert total is not None
        return total / divisor

    return run, shapes[0]


@operation("votes")
def _votes(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Columns of class numbers to the sum of weights for each class."""
    expect(shapes, text=False, block=False)
    classes = args.get("classes", int)
    weights = args.array("weights", width=len(shapes))
    shape = block_of(classes)

    def run(values: Sequence[Value]) -> Value:
        block = np.zeros((len(values[0]), classes))
        rows = np.arange(len(block))
        for value, weight in zip(values, weights, strict=True):
            block[rows, np.clip(value, 0, classes - 1).astype(np.intp)] += weight
        return block

    return run, shape


@operation("largest")
def _largest(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The place of the largest number in each row, the first of equals."""
    width_of(shapes)
    return (lambda values: values[0].argmax(axis=1).astype(np.float64)), NUMBERS


@operation("sign")
def _sign(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """1 where a score decides for the second of two classes, else 0; `zero`: zero does, too."""
    if width_of(shapes) != 1:
        raise IntegrityError("It takes one score.")
    zero = args.get("zero", bool)

    def run(values: Sequence[Value]) -> Value:
        score = values[0][:, 0]
        return (score >= 0 if zero else score > 0).astype(np.float64)

    return run, NUMBERS


# ── exp in single precision ───────────────────────────────────────────────────────────────────────

SIGMOID_LIMIT = np.float32(88.7)
STEPS = 32  # of a power of two, in the table
SCALE = STEPS * 1.4426950408889634
TABLE = np.exp2(np.arange(STEPS) / STEPS)
CURVE = (0.05550361559341535 / STEPS**3, 0.2402284522445722 / STEPS**2, 0.6931471806916203 / STEPS)


def exp32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """`expf` of the C library, bit by bit: numpy's own differs in the last one."""
    scaled = SCALE * x.astype(np.float64)
    whole = np.rint(scaled)
    rest = scaled - whole
    steps = whole.astype(np.int64)
    power = np.ldexp(TABLE[steps % STEPS], steps // STEPS)
    curve = (CURVE[0] * rest + CURVE[1]) * (rest * rest) + (CURVE[2] * rest + 1.0)
    return (curve * power).astype(np.float32)
