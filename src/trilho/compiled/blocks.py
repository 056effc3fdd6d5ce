"""Operations over blocks of numbers, cell by cell: scaling, filling, checking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trilho.compiled.operations import Arguments, Run, Shape, Value, block_of, operation, width_of
from trilho.errors import DataError, IntegrityError

TINY = 10 * np.finfo(np.float64).eps  # below it scikit-learn takes a norm for zero

# ── arithmetic ────────────────────────────────────────────────────────────────────────────────────


def _arithmetic(name: str, ufunc: np.ufunc) -> None:
    """Block and one number per column."""

    @operation(name)
    def build(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
        numbers = args.array("values", width=width_of(shapes))
        return (lambda values: ufunc(values[0], numbers)), shapes[0]


for _name, _ufunc in {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "minimum": np.minimum,
    "maximum": np.maximum,
}.items():
    _arithmetic(_name, _ufunc)


@operation("scale")
def _scale(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Less `center`, divided by `scale`."""
    width = width_of(shapes)
    center, scale = args.array("center", width=width), args.array("scale", width=width)
    return (lambda values: (values[0] - center) / scale), shapes[0]


@operation("above")
def _above(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """1 where above one number per column, else 0."""
    numbers = args.array("values", width=width_of(shapes))
    return (lambda values: (values[0] > numbers).astype(np.float64)), shapes[0]


@operation("float32")
def _float32(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Rounded to single precision, as scikit-learn's trees see it."""
    width_of(shapes)
    return (lambda values: values[0].astype(np.float32).astype(np.float64)), shapes[0]


@operation("no_specks")
def _no_specks(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Zero in place of numbers that are not farther from it than `limit`."""
    width_of(shapes)
    limit = args.get("limit", float)
    return (lambda values: np.where(np.abs(values[0]) <= limit, 0.0, values[0])), shapes[0]


@operation("truncate")
def _truncate(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Rounded towards zero in the columns where `values` is 1."""
    chosen = args.array("values", width=width_of(shapes)) == 1
    return (lambda values: np.where(chosen, np.trunc(values[0]), values[0])), shapes[0]


def _norm(name: str, norm: Callable[[Value], Value]) -> None:
    """Rows divided by a norm of theirs; rows of (almost) zeros stay."""

    @operation(name)
    def build(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
        width_of(shapes)

        def run(values: Sequence[Value]) -> Value:
            norms = norm(values[0])
            norms[norms < TINY] = 1.0
            return values[0] / norms[:, None]

        return run, shapes[0]


for _name, _by in {
    "norm_l1": lambda block: np.abs(block).sum(axis=1),
    "norm_l2": lambda block: np.sqrt(np.einsum("ij,ij->i", block, block)),
    "norm_max": lambda block: np.abs(block).max(axis=1),
}.items():
    _norm(_name, _by)


# ── missing values ────────────────────────────────────────────────────────────────────────────────


def _missing_in(args: Arguments) -> Callable[[Value], Value]:
    """Tell what is missing: NaN, or cells equal to the argument `missing`."""
    missing: Any = args.get("missing", (int, float, type(None)))
    if missing is None:
        return np.isnan
    return lambda block: block == missing


@operation("fill")
def _fill(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """One number per column in place of `missing` (None: NaN)."""
    numbers = args.array("values", width=width_of(shapes))
    is_missing = _missing_in(args)
    return (lambda values: np.where(is_missing(values[0]), numbers, values[0])), shapes[0]


@operation("is_missing")
def _is_missing(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """1 where missing (None: NaN), else 0."""
    width_of(shapes)
    is_missing = _missing_in(args)
    return (lambda values: is_missing(values[0]).astype(np.float64)), shapes[0]


# ── rows that scikit-learn refuses ────────────────────────────────────────────────────────────────


@operation("require")
def _require(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Refuse infinities, and NaN unless `missing`, where scikit-learn refuses them."""
    width_of(shapes)
    allowed = args.get("missing", bool)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        fine = np.isfinite(block)
        if allowed:
            fine |= np.isnan(block)
        if not fine.all():
            what = "a number is too large" if allowed else "a value is missing or too large"
            raise DataError(f"The model cannot take this row: {what} for it.")
        return block

    return run, shapes[0]


@operation("require_positive")
def _require_positive(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Refuse zero and negative numbers."""
    width_of(shapes)

    def run(values: Sequence[Value]) -> Value:
        if (values[0] <= 0).any():
            raise DataError("The model cannot take this row: a number is not positive.")
        return values[0]

    return run, shapes[0]


@operation("require_present")
def _require_present(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Refuse what is missing (None: NaN)."""
    width_of(shapes)
    is_missing = _missing_in(args)

    def run(values: Sequence[Value]) -> Value:
        if is_missing(values[0]).any():
            raise DataError(
                "The model cannot take this row: a value is missing that never was in training."
            )
        return values[0]

    return run, shapes[0]


# ── combinations ──────────────────────────────────────────────────────────────────────────────────


@operation("products")
def _products(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Products of columns, each of an earlier result and a column.

    Results count from 0: a one, then the block's columns, then the products: of the results `left`
    and the columns `right`, which refer to what is known before. `outputs` chooses results.
    """
    width = width_of(shapes)
    left = args.whole("left", 0, 1 << 31)
    right = args.whole("right", 0, width)
    known = 1 + width + np.arange(len(left))
    if len(left) != len(right) or (left >= known).any():
        raise IntegrityError("A product refers to a later one.")
    count = 1 + width + len(left)
    block_of(count)
    outputs = args.whole("outputs", 0, count)
    runs = _independent(left, 1 + width)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        results = np.empty((len(block), count))
        results[:, 0] = 1.0
        results[:, 1 : 1 + width] = block
        for start, end in runs:
            at = 1 + width
            results[:, at + start : at + end] = (
                results[:, left[start:end]] * block[:, right[start:end]]
            )
        return np.ascontiguousarray(results[:, outputs])

    return run, block_of(len(outputs))


def _independent(left: Value, known: int) -> list[tuple[int, int]]:
    """Runs of products that refer only to what is known before the run."""
    runs, start = [], 0
    for i, operand in enumerate(left.tolist()):
        if operand >= known + start:
            runs.append((start, i))
            start = i
    if len(left):
        runs.append((start, len(left)))
    return runs
