"""What stands in each column, in figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from trilho.dataset.records import ColumnSummary, Top

TOP = 10  # most frequent values listed per column


def kind(dtype: Any) -> str:
    """Return `number`, `integer`, `boolean`, `string` or `date` for a pandas dtype."""
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_integer_dtype(dtype):
        return "integer"
    if pd.api.types.is_numeric_dtype(dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "date"
    return "string"


def column_kinds(frame: pd.DataFrame) -> dict[str, str]:
    """Return the kind of each column, as a signature names it."""
    return {str(name): kind(dtype) for name, dtype in frame.dtypes.items()}


def summarise(frame: pd.DataFrame) -> list[ColumnSummary]:
    """Describe each column: kind, missing and distinct values, range, moments, top values."""
    return [_summary(str(name), frame[name]) for name in frame.columns]


def _summary(name: str, values: Any) -> ColumnSummary:
    what = kind(values.dtype)
    counts = _counts(values)
    low: Any = None
    high: Any = None
    mean = sd = None
    if what in ("number", "integer") and len(counts):
        low, high, mean, sd = _moments(counts)
    elif what == "date" and len(counts):
        low, high = counts.index.min().isoformat(), counts.index.max().isoformat()
    # ties in order of appearance, so the same every time; nothing is frequent among unique values
    top = counts.nlargest(TOP) if len(counts) < len(values) or len(counts) <= TOP else counts[:0]
    return ColumnSummary(
        name=name,
        dtype=str(values.dtype),
        kind=what,
        missing=int(len(values) - counts.sum()),
        unique=len(counts),
        min=low,
        max=high,
        mean=mean,
        sd=sd,
        top=[Top(value=str(v), count=int(n)) for v, n in top.items()],
    )


def _counts(values: pd.Series) -> pd.Series:
    """Count each distinct value; whole numbers of a narrow range in an array, faster by far."""
    if values.dtype.kind in "iuf" and len(values):
        array = values.to_numpy()
        if array.dtype.kind == "i":
            array = array.astype(np.int64, copy=False)  # differences of narrower ones overflow
        elif array.dtype.kind == "f" and (gaps := np.isnan(array)).any():
            array = array[~gaps]
        if (
            len(array)
            and (bins := float(array.max()) - float(array.min())) <= 2 * len(values) + 999
        ):
            low = array.min()
            steps = (array - low).astype(np.int64)
            if array.dtype.kind != "f" or (steps + low == array).all():
                counted = np.bincount(steps, minlength=int(bins) + 1)
                found = np.flatnonzero(counted)
                return pd.Series(counted[found], index=(found + low).astype(values.dtype))
    return values.value_counts(sort=False)


def _moments(counts: pd.Series) -> tuple[float, float, float | None, float | None]:
    """Return minimum, maximum, mean and standard deviation (n - 1) of counted values."""
    seen = counts.index.to_numpy(dtype=np.float64)
    weights = counts.to_numpy(dtype=np.float64)
    rows = weights.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        # not `@`: BLAS would wake a thread per core for it
        mean = (seen * weights).sum() / rows
        square = ((seen - mean) ** 2 * weights).sum()
    sd = np.sqrt(square / (rows - 1)) if rows > 1 else np.nan
    return float(seen.min()), float(seen.max()), _finite(mean), _finite(sd)


def _finite(value: Any) -> float | None:
    """JSON holds no infinity: beyond the range of floats, a figure is not known."""
    return float(value) if np.isfinite(value) else None
