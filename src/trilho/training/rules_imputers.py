"""Rules for missing values: what fills them, and what points them out."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.impute import MissingIndicator, SimpleImputer

from trilho.compiled.operations import is_missing
from trilho.training.builder import FINITE, Builder, Cell, Table
from trilho.training.compile import CompileRefused, compiles, name_of


@compiles(SimpleImputer)
def _simple_imputer(imputer: Any, table: Table, builder: Builder) -> Table:
    _check_numbers_and_text(imputer, table)
    statistics = list(imputer.statistics_)
    # a column without any value in training is left out, unless it is to be kept
    kept = [i for i, v in enumerate(statistics) if imputer.keep_empty_features or not is_missing(v)]
    if not kept:
        raise CompileRefused("SimpleImputer leaves no column")
    text = any(cell.text for cell in table.cells)
    table = (_text_checked if text else _validated)(imputer, table, builder)
    chosen = table.take(kept)
    values = [statistics[i] for i in kept]
    filled = (_fill_text if text else _fill_numbers)(imputer, chosen, values, builder)
    if not imputer.add_indicator:
        return filled
    flags = _flags(imputer, table.take(imputer.indicator_.features_.tolist()), builder)
    return Table(filled.cells + flags.cells, sparse=table.sparse, mixed=text)


def _check_numbers_and_text(owner: Any, table: Table) -> None:
    text = [cell.text for cell in table.cells]
    if any(cell.kind == "date" for cell in table.cells):
        raise CompileRefused(f"{name_of(owner)} gets a date column")
    if any(text) and not all(text):
        raise CompileRefused(f"{name_of(owner)} gets text and numbers together")


def _validated(owner: Any, table: Table, builder: Builder) -> Table:
    """Numbers as scikit-learn's imputers take them: no infinity, NaN only if that is missing."""
    if table.sparse and owner.missing_values == 0:
        raise CompileRefused(f"{name_of(owner)} takes zeros of a sparse matrix for missing")
    return builder.require(table, owner, missing=_marker(owner, text=False) is None, single=True)


def _marker(owner: Any, *, text: bool) -> Any:
    """What stands for missing, None for NaN."""
    marker = owner.missing_values
    if isinstance(marker, float) and np.isnan(marker):
        return None
    kinds: Any = str if text else (int, float, np.integer, np.floating)
    if isinstance(marker, kinds) and not isinstance(marker, bool):
        return marker if text else float(marker)
    # None and pandas.NA: scikit-learn tells them from the NaN that a service's missing text is
    raise CompileRefused(f"{name_of(owner)} takes {marker!r} for missing")


def _fill_numbers(imputer: Any, table: Table, values: list[Any], builder: Builder) -> Table:
    if not all(isinstance(v, int | float | np.integer | np.floating) for v in values):
        raise CompileRefused("SimpleImputer fills numbers with something else")
    if any(cell.kind == "single" for cell in table.cells):
        raise CompileRefused("SimpleImputer rounds to single precision")
    marker = _marker(imputer, text=False)
    # whole numbers stay whole: scikit-learn casts what fills them
    numbers = np.array([float(v) for v in np.array(values).astype(imputer._fill_dtype)])
    finite = marker is None and bool(np.isfinite(numbers).all())
    source = builder.block(table, imputer)
    block = builder.add("fill", [source], {"missing": marker}, values=numbers)
    kind = "whole" if all(c.kind in ("whole", "truth") for c in table.cells) else "number"
    known = FINITE if finite or builder.known(table) == FINITE else None
    result = builder.result(block, len(numbers), table.names, kind=kind, known=known)
    return result._replace(sparse=table.sparse)


def _fill_text(imputer: Any, table: Table, values: list[Any], builder: Builder) -> Table:
    if not all(isinstance(v, str) for v in values):
        raise CompileRefused("SimpleImputer fills text with something else")
    args = {"marker": _marker(imputer, text=True)}
    filled = [
        Cell(builder.add("text_fill", [cell.ref], {"value": value, **args}), "text")
        for cell, value in zip(table.cells, values, strict=True)
    ]
    return Table(filled, table.names)


def _text_checked(owner: Any, table: Table, builder: Builder) -> Table:
    """Where another marker stands for missing, NaN itself is refused."""
    if _marker(owner, text=True) is None:
        return table
    cells = [Cell(builder.add("text_require", [cell.ref]), "text") for cell in table.cells]
    return table._replace(cells=cells)


def _flags(owner: Any, table: Table, builder: Builder) -> Table:
    """1 where missing: one column for each of the table's."""
    if not table.cells:
        return Table([])
    if table.cells[0].text:
        args = {"marker": _marker(owner, text=True)}
        flags = [builder.add("text_missing", [cell.ref], args) for cell in table.cells]
        return Table([Cell(flag, "truth") for flag in flags])
    source = builder.block(table, owner, single=True)
    block = builder.add("is_missing", [source], {"missing": _marker(owner, text=False)})
    return builder.result(block, len(table.cells), kind="truth", known=FINITE)


@compiles(MissingIndicator)
def _missing_indicator(indicator: Any, table: Table, builder: Builder) -> Table:
    _check_numbers_and_text(indicator, table)
    text = any(cell.text for cell in table.cells)
    table = (_text_checked if text else _validated)(indicator, table, builder)
    wanted = indicator.features_.tolist()
    others = [i for i in range(len(table.cells)) if i not in set(wanted)]
    if indicator.features == "missing-only" and indicator.error_on_new and others:
        if text:
            for i in others:
                cell = table.cells[i]
                if _marker(indicator, text=True) is not None:
                    raise CompileRefused("MissingIndicator refuses a text of its own")
                builder.add("text_require", [cell.ref])
        else:
            unflagged = builder.block(table.take(others), indicator, single=True)
            marker = _marker(indicator, text=False)
            builder.add("require_present", [unflagged], {"missing": marker})
    if not wanted:
        raise CompileRefused("MissingIndicator points out no column")
    sparse = indicator.sparse is True or (indicator.sparse == "auto" and table.sparse)
    return _flags(indicator, table.take(wanted), builder)._replace(sparse=sparse)
