"""Columns that grow batch by batch, so that a frame is built with hardly any memory beside it.

Arrow's own conversion holds the parsed texts, the table and the frame for a moment: three to four
times the frame. Here each batch is copied to the end of plain arrays and freed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.pandas_compat  # these two else by the first conversion, maybe in a thread
import pyarrow.vendored.version

_NAT = np.iinfo(np.int64).min


class Column(Protocol):
    def add(self, chunk: Any) -> None: ...
    def series(self) -> pd.Series: ...


def frame(schema: Any, batches: Iterable[Any], rows: int = 0) -> pd.DataFrame:
    """Return the frame of Arrow record batches; see `read_table` for its dtypes.

    Parameters
    ----------
    rows
        How many rows to expect, if it is known about. Memory that is reserved and not used costs
        nothing; columns that outgrow it are moved.
    """
    columns = [_column(field.type, rows) for field in schema]
    for batch in batches:
        for column, chunk in zip(columns, batch.columns, strict=True):
            column.add(chunk)
    series = {}
    for name in schema.names:
        series[name] = columns.pop(0).series()
    return pd.DataFrame(series, copy=False)


def _column(kind: Any, rows: int) -> Column:
    if pa.types.is_boolean(kind):
        return _Booleans(rows)
    if pa.types.is_temporal(kind):
        return _Dates(rows, getattr(kind, "tz", None))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _Texts()
    dtype = np.float64 if pa.types.is_null(kind) else kind.to_pandas_dtype()
    return _Numbers(rows, dtype)


class _Numbers:
    """Numbers; whole ones turn to `float64` with the first that is missing."""

    def __init__(self, rows: int, dtype: Any) -> None:
        self.space = np.empty(rows, dtype=dtype)
        self.rows = 0

    @property
    def values(self) -> npt.NDArray[Any]:
        return self.space[: self.rows]

    def add(self, chunk: Any) -> None:
        if pa.types.is_null(chunk.type):
            chunk = chunk.cast(pa.float64())
        new = chunk.to_numpy(zero_copy_only=False)
        end = self.rows + len(new)
        outgrown = end > len(self.space)
        gap = self.space.dtype.kind != "f" and new.dtype.kind == "f"
        if outgrown or gap:
            dtype = np.dtype(np.float64) if gap else self.space.dtype
            space = np.empty(max(end, 2 * self.rows) if outgrown else len(self.space), dtype)
            space[: self.rows] = self.values
            self.space = space
        self.space[self.rows : end] = new
        self.rows = end

    def series(self) -> pd.Series:
        return pd.Series(self.values, copy=False)


class _Booleans:
    def __init__(self, rows: int) -> None:
        self.codes = _Numbers(rows, np.int8)

    def add(self, chunk: Any) -> None:
        self.codes.add(chunk.cast(pa.int8()).fill_null(-1))

    def series(self) -> pd.Series:
        codes = self.codes.values
        if (codes >= 0).all():
            return pd.Series(codes.astype(bool))
        return pd.Series(pd.arrays.BooleanArray(codes == 1, codes < 0))


class _Dates:
    def __init__(self, rows: int, zone: str | None) -> None:
        self.zone = zone
        self.micros = _Numbers(rows, np.int64)

    def add(self, chunk: Any) -> None:
        moments = chunk.cast(pa.timestamp("us", tz=self.zone), safe=False)
        self.micros.add(moments.cast(pa.int64()).fill_null(_NAT))

    def series(self) -> pd.Series:
        moments = pd.Series(self.micros.values.view("datetime64[us]"), copy=False)
        if self.zone is None:
            return moments
        return moments.dt.tz_localize("UTC").dt.tz_convert(self.zone)


class _Texts:
    def __init__(self) -> None:
        self.chunks: list[Any] = []

    def add(self, chunk: Any) -> None:
        self.chunks.append(chunk)

    def series(self) -> pd.Series:
        texts: pd.Series = pa.chunked_array(self.chunks, pa.string()).to_pandas()
        return texts
