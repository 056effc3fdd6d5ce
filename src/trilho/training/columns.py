"""Between frames, the service's columns and JSON rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trilho.bundle import Column, Signature
from trilho.features import numbers, texts

Columns = Mapping[str, NDArray[Any]]
DAY_IN_MICROSECONDS = 86_400_000_000


def from_frame(frame: pd.DataFrame, signature: Signature) -> dict[str, NDArray[Any]]:
    """Return the frame's columns as the service passes them to a model."""
    return {
        c.name: texts(frame[c.name]) if c.kind == "string" else numbers(frame[c.name])
        for c in signature.columns
    }


def to_frame(columns: Columns, signature: Signature) -> pd.DataFrame:
    """Return the service's columns as a frame that the scikit-learn model takes."""
    return pd.DataFrame({c.name: _series(columns[c.name], c.kind) for c in signature.columns})


def _series(values: NDArray[Any], kind: str) -> pd.Series[Any]:
    if kind == "string":
        return pd.Series(values, dtype="str")
    if kind == "date":
        micros = np.where(np.isnan(values), 0.0, np.rint(values * DAY_IN_MICROSECONDS))
        dates = pd.Series(micros.astype(np.int64).astype("datetime64[us]"))
        return dates.mask(np.isnan(values))
    return pd.Series(values)


def to_rows(columns: Columns, signature: Signature) -> list[dict[str, Any]]:
    """Return the service's columns as JSON rows."""
    lists = {c.name: [_json(v, c) for v in columns[c.name].tolist()] for c in signature.columns}
    rows = len(next(iter(lists.values())))
    return [{name: values[i] for name, values in lists.items()} for i in range(rows)]


def _json(value: Any, column: Column) -> Any:
    if value is None or value != value:
        return None
    if column.kind == "integer" and float(value).is_integer():
        return int(value)
    if column.kind == "boolean":
        return bool(value)
    if column.kind == "date":
        return pd.Timestamp(0).__add__(pd.Timedelta(value, unit="D")).isoformat()
    return value


def join(parts: Sequence[Columns]) -> dict[str, NDArray[Any]]:
    """Put rows below each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def take(columns: Columns, rows: Any) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in columns.items()}
