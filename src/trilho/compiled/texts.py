"""Operations over columns: text, categories, arithmetic, and columns to a block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trilho.compiled.formula import Formula
from trilho.compiled.operations import (
    NUMBERS,
    TEXT,
    Arguments,
    Run,
    Shape,
    Value,
    block_of,
    expect,
    is_missing,
    operation,
)
from trilho.errors import DataError, IntegrityError


@operation("stack")
def _stack(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Columns and blocks side by side."""
    expect(shapes, text=False)
    width = sum(1 if s.width is None else s.width for s in shapes)

    columns_only = all(s.width is None for s in shapes)
    blocks_only = all(s.width is not None for s in shapes)

    def run(values: Sequence[Value]) -> Value:
        rows = len(values[0])
        if rows == 1 and columns_only:  # for one row in a third of the time
            return np.array([[value.item() for value in values]])
        if rows == 1 and blocks_only:
            return np.concatenate(values, axis=1)
        block = np.empty((rows, width))
        j = 0
        for value in values:
            if value.ndim == 1:
                block[:, j] = value
                j += 1
            else:
                block[:, j : j + value.shape[1]] = value
                j += value.shape[1]
        return block

    return run, block_of(width)


@operation("formula")
def _formula(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Elementwise arithmetic over columns; see `formula.py`."""
    expect(shapes, text=False, block=False)
    formula = Formula(
        len(shapes), args.array("constants"), args.get("steps", list), args.get("outputs", list)
    )

    def run(values: Sequence[Value]) -> Value:
        rows = len(values[0])
        if rows == 1:
            return formula.row([float(v.item()) for v in values])
        return formula.batch(values, rows)

    return run, block_of(formula.width)


# ── text ──────────────────────────────────────────────────────────────────────────────────────────


@operation("text_fill")
def _text_fill(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Text with `value` in place of missing, or of `marker` if there is one."""
    expect(shapes, 1, text=True)
    fill = args.get("value", str)
    marker = args.get("marker", (str, type(None)))

    def run(values: Sequence[Value]) -> Value:
        column = values[0].tolist()
        if marker is None:
            return _objects([fill if is_missing(v) else v for v in column])
        return _objects([fill if v == marker else v for v in column])

    return run, TEXT


@operation("text_missing")
def _text_missing(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """1 where text is missing, or is `marker` if there is one, else 0."""
    expect(shapes, 1, text=True)
    marker = args.get("marker", (str, type(None)))

    def run(values: Sequence[Value]) -> Value:
        column = values[0].tolist()
        found = [is_missing(v) if marker is None else v == marker for v in column]
        return np.array(found, np.float64)

    return run, NUMBERS


@operation("text_require")
def _text_require(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Refuse missing text where scikit-learn refuses it."""
    expect(shapes, 1, text=True)

    def run(values: Sequence[Value]) -> Value:
        if any(map(is_missing, values[0].tolist())):
            raise DataError("The model cannot take this row: a value is missing for it.")
        return values[0]

    return run, TEXT


def _objects(values: list[Any]) -> Value:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# ── categories ────────────────────────────────────────────────────────────────────────────────────


@operation("lookup")
def _lookup(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The number that stands for each category, or the row of numbers.

    `codes` is (categories,) and gives a column, or (categories, width) and gives a block.
    `default`, if not empty, holds what stands for any other category; else others are an error.
    Text categories stand in the plan, None among them for missing; numbers in a sorted array, with
    what stands for NaN in `missing` (empty: as for others). An infinity is always an error.
    """
    expect(shapes, 1, block=False)
    ndim = args.arrays["codes"].ndim if "codes" in args.arrays else 1
    codes = args.array("codes", ndim=2 if ndim == 2 else 1)
    table = codes if codes.ndim == 2 else codes[:, None]
    width = table.shape[1]
    shape = block_of(width) if codes.ndim == 2 else NUMBERS
    default = _row(args, "default", width)
    label = args.get("column", str)

    def unknown(value: Any) -> DataError:  # the value itself may be personal data
        what = "a missing value" if is_missing(value) else "a category"
        return DataError(f"Column {label!r} holds {what} that was not in the training data.")

    other = len(table)
    table = np.vstack([table, np.full(width, np.nan) if default is None else default])
    if codes.ndim == 1:
        table = table[:, 0]
    if shapes[0].text:
        keys = args.get("categories", list)
        if len(keys) != other or not all(isinstance(k, str | None) for k in keys):
            raise IntegrityError("A lookup's categories do not fit its codes.")
        place = {key: i for i, key in enumerate(keys)}
        if len(place) != len(keys):
            raise IntegrityError("A lookup's categories repeat.")

        def run_text(values: Sequence[Value]) -> Value:
            column = values[0].tolist()
            found = [place.get(None if is_missing(v) else v, other) for v in column]
            if default is None and other in found:
                raise unknown(column[found.index(other)])
            return table[found]

        return run_text, shape

    categories = args.array("categories", width=other)
    if not (np.diff(categories) > 0).all():
        raise IntegrityError("A lookup's categories are not sorted.")
    missing = _row(args, "missing", width)
    if missing is not None:  # one place more, for NaN
        table = np.concatenate([table, missing[None] if codes.ndim == 2 else missing])
    last = max(0, other - 1)

    place_of = {category: i for i, category in enumerate(categories.tolist())}
    nan_place = other if missing is None else other + 1

    def run_one(value: float) -> Value:
        if math.isinf(value):
            raise DataError(f"Column {label!r} holds a number that is too large.")
        at = nan_place if value != value else place_of.get(value, other)
        if default is None and at == other:
            raise unknown(value)
        return table[at : at + 1]

    def run_numbers(values: Sequence[Value]) -> Value:
        column = values[0]
        if len(column) == 1:  # in a tenth of the time
            return run_one(column.item())
        if np.isinf(column).any():
            raise DataError(f"Column {label!r} holds a number that is too large.")
        if other:
            places = np.minimum(np.searchsorted(categories, column), last)
            found = np.where(categories[places] == column, places, other)
        else:
            found = np.full(len(column), other)
        if missing is not None:
            found[np.isnan(column)] = other + 1
        if default is None and (found == other).any():
            raise unknown(column[found == other][0])
        return table[found]

    return run_numbers, shape


def _row(args: Arguments, name: str, width: int) -> Value | None:
    """A row of `width` numbers, None if it is empty."""
    array = args.array(name)
    if len(array) not in (0, width):
        raise IntegrityError(f"Argument {name!r} does not fit the codes.")
    return array if len(array) else None


@operation("one_hot")
def _one_hot(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """A column of indices as a block of zeros with a one; an index of -1 gives zeros only."""
    expect(shapes, 1, text=False, block=False)
    width = args.get("width", int)

    def run(values: Sequence[Value]) -> Value:
        hot: Value = values[0][:, None] == indices
        return hot.astype(np.float64)

    shape = block_of(width)
    indices = np.arange(width, dtype=np.float64)
    return run, shape
