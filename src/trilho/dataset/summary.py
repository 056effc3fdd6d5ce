"""What stands in each column, in figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from trilho.dataset.records import ColumnSummary, Top

SAMPLE = 1000
TOP = 10  # most frequent values listed per column
SMALL = 1 << 16  # range of whole numbers that is counted in an array instead of a hash table


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
    counts = _counts(values, what)
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


def _counts(values: pd.Series, what: str) -> pd.Series:
    """Count each distinct value."""
    if what == "integer" and len(values) and values.dtype.kind in "iu":
        array = values.to_numpy()
        low, high = int(array.min()), int(array.max())
        if high - low < SMALL:
            counted = np.bincount(array - low)
            found = np.flatnonzero(counted)
            return pd.Series(counted[found], index=found + low)
    if values[:SAMPLE].is_unique and values.is_unique and not values.hasnans:
        return pd.Series(1, index=values)
    return values.value_counts(sort=False)


def _moments(counts: pd.Series) -> tuple[float, float, float | None, float | None]:
    """Return minimum, maximum, mean and standard deviation (n - 1) of counted values."""
    seen = counts.index.to_numpy(dtype=np.float64)
    weights = counts.to_numpy(dtype=np.float64)
    rows = weights.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        mean = seen @ weights / rows
        square = (seen - mean) ** 2 @ weights
    sd = np.sqrt(square / (rows - 1)) if rows > 1 else np.nan
    return float(seen.min()), float(seen.max()), _finite(mean), _finite(sd)


def _finite(value: Any) -> float | None:
    """JSON holds no infinity: beyond the range of floats, a figure is not known."""
    return float(value) if np.isfinite(value) else None
