"""Rules for encoders of categories."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from trilho.compiled.operations import is_missing
from trilho.training.builder import FINITE, NO_INFINITY, Builder, Cell, Table
from trilho.training.compile import CompileRefused, compiles, name_of

MOST_CELLS = 4096  # of a table that holds a row of zeros and a one for each category


@compiles(OrdinalEncoder)
def _ordinal_encoder(encoder: Any, table: Table, builder: Builder) -> Table:
    kind = _output_kind(encoder, np.dtype(encoder.dtype))
    default = None if encoder.handle_unknown == "error" else float(encoder.unknown_value)
    cells = []
    for i, cell in enumerate(table.cells):
        categories = encoder.categories_[i]
        codes = np.arange(len(categories), dtype=np.float64)
        mapping = _infrequent(encoder, i)
        if mapping is not None:  # does not count the missing value
            codes[: len(mapping)] = mapping
        if i in encoder._missing_indices:
            codes[encoder._missing_indices[i]] = encoder.encoded_missing_value
        part = _lookup(encoder, cell, categories, codes, default, table.label(i), builder)
        cells += [Cell(c.ref, kind) for c in part]
    return Table(cells, table.names)


@compiles(OneHotEncoder)
def _one_hot_encoder(encoder: Any, table: Table, builder: Builder) -> Table:
    kind = _output_kind(encoder, np.dtype(encoder.dtype))
    cells: list[Cell] = []
    for i, cell in enumerate(table.cells):
        categories = encoder.categories_[i]
        codes, width = np.arange(len(categories), dtype=np.float64), len(categories)
        default = None if encoder.handle_unknown == "error" else -1.0
        mapping = _infrequent(encoder, i)
        if mapping is not None:
            codes, width = mapping.astype(np.float64), int(mapping.max()) + 1
            if encoder.handle_unknown in ("infrequent_if_exist", "warn"):
                default = width - 1.0  # rare categories come last
        dropped = encoder._drop_idx_after_grouping
        if dropped is not None and dropped[i] is not None:
            codes = _without(codes, dropped[i])
            if default is not None:
                default = float(_without(np.array([default]), dropped[i])[0])
            width -= 1
        if width == 0 and default is not None:
            continue
        label = table.label(i)
        for c in _hot(encoder, cell, categories, codes, width, default, label, builder):
            cells.append(Cell(c.ref, kind))
    return Table(cells, sparse=bool(encoder.sparse_output))


def _without(codes: NDArray[np.float64], dropped: int) -> NDArray[np.float64]:
    """Codes when one of them is dropped: it becomes -1, and those behind move up."""
    return np.where(codes == dropped, -1.0, codes - (codes > dropped))


def _hot(
    encoder: Any,
    cell: Cell,
    categories: NDArray[Any],
    codes: NDArray[np.float64],
    width: int,
    default: float | None,
    label: str,
    builder: Builder,
) -> list[Cell]:
    """Columns of zeros with a one, by a table of such rows if it is small."""
    if width and len(codes) * width <= MOST_CELLS:
        rows = (codes[:, None] == np.arange(width)).astype(np.float64)
        other = None if default is None else np.equal(np.arange(width), default).astype(np.float64)
        return _lookup(encoder, cell, categories, rows, other, label, builder)
    index = _lookup(encoder, cell, categories, codes, default, label, builder)[0]
    if width == 0:  # nothing is left of it, but unknown categories are an error
        return []
    block = builder.add("one_hot", [index.ref], {"width": width})
    return builder.result(block, width, known=FINITE).cells


@compiles(TargetEncoder)
def _target_encoder(encoder: Any, table: Table, builder: Builder) -> Table:
    outputs = len(encoder.classes_) if encoder.target_type_ == "multiclass" else 1
    mean = np.broadcast_to(np.asarray(encoder.target_mean_, np.float64), outputs)
    cells: list[Cell] = []
    for i, cell in enumerate(table.cells):
        own = encoder.encodings_[i * outputs : (i + 1) * outputs]
        codes = np.column_stack([np.asarray(e, np.float64) for e in own])
        categories = encoder.categories_[i]
        cells += _lookup(encoder, cell, categories, codes, mean, table.label(i), builder)
    return Table(cells)


def _output_kind(encoder: Any, dtype: np.dtype[Any]) -> str:
    if dtype == np.float64:
        return "number"
    if dtype == np.float32:
        return "single"
    if dtype in (np.int64, np.int32):
        return "whole"
    raise CompileRefused(f"{name_of(encoder)} gives numbers of type {dtype}")


def _infrequent(encoder: Any, i: int) -> NDArray[Any] | None:
    """Where each category goes when rare ones are joined."""
    if not encoder._infrequent_enabled:
        return None
    mapping: NDArray[Any] | None = encoder._default_to_infrequent_mappings[i]
    return mapping


def _lookup(
    encoder: Any,
    cell: Cell,
    categories: NDArray[Any],
    codes: NDArray[np.float64],
    default: float | NDArray[np.float64] | None,
    label: str,
    builder: Builder,
) -> list[Cell]:
    """Cells for the codes of a column's categories: one, or as many as `codes` has columns."""
    others = np.array([]) if default is None else np.atleast_1d(np.asarray(default, np.float64))
    values = categories.tolist()
    if cell.kind == "date":
        raise CompileRefused(f"{name_of(encoder)} gets a date column")
    if cell.text:
        keys = [None if _is_nan(c) else c for c in values]
        if not all(isinstance(k, str | None) for k in keys) or None in values:
            raise CompileRefused("an encoder's categories mix text and other values")
        args = {"column": label, "categories": keys}
        ref = builder.add("lookup", [cell.ref], args, codes=codes, default=others)
    else:
        numbers = _numbers(values)
        present = bool(len(numbers)) and bool(np.isnan(numbers[-1]))
        missing = codes[-1:].ravel() if present else others
        numbers, codes = (numbers[:-1], codes[:-1]) if present else (numbers, codes)
        order = np.argsort(numbers)
        ref = builder.add(
            "lookup",
            [cell.ref],
            {"column": label},
            codes=codes[order],
            categories=numbers[order],
            default=others,
            missing=missing,
        )
    finite = bool(np.isfinite(codes).all() and np.isfinite(others).all())
    if not cell.text:
        finite = finite and bool(np.isfinite(missing).all())
    known = FINITE if finite else NO_INFINITY
    if codes.ndim == 2:
        return builder.result(ref, codes.shape[1], known=known).cells
    builder.note(ref, known)
    return [Cell(ref)]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and is_missing(value)


def _numbers(values: list[Any]) -> NDArray[np.float64]:
    """Categories of a column of numbers as float64, NaN last."""
    if not all(isinstance(c, bool | int | float) for c in values):
        raise CompileRefused("an encoder's categories are no numbers, but its column is")
    numbers = np.array([float(c) for c in values])
    if any(int(n) != c for n, c in zip(numbers, values, strict=True) if isinstance(c, int)):
        raise CompileRefused("an encoder's categories are whole numbers beyond 2**53")
    if np.isnan(numbers[:-1]).any() or len(set(numbers.tolist())) < len(numbers):
        raise CompileRefused("an encoder's categories repeat")
    return numbers
