"""Dtype coercion that never hides a bad value.

`Column(int, coerce=True)` of pandera turns 2.5 into 2, `Column(bool, coerce=True)` turns "False"
into True. Here a value that would change is a failure, and stands in the report.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandera import dtypes
from pandera.engines.pandas_engine import Engine

Mask = npt.NDArray[Any]  # of bool, shape (rows,)


def has_dtype(values: pd.Series, dtype: Any) -> bool:
    """Tell whether a column has a pandera dtype already."""
    return bool(np.all(dtype.check(Engine.dtype(values.dtype), values)))


def coerce(values: pd.Series, dtype: Any) -> pd.Series | None:
    """Return the column in another dtype, or None when any value would change or get lost."""
    if misfits(values, dtype).any():
        return None
    try:
        coerced = dtype.coerce(values)
    except Exception:  # numpy, pandas and pandera each raise their own
        return None
    same = (coerced.isna().to_numpy() == values.isna().to_numpy()).all()
    return coerced if same else None


def misfits(values: pd.Series, dtype: Any) -> Mask:
    """Tell which values have no equal in a dtype; missing values have."""
    present: Mask = values.notna().to_numpy(dtype=bool)
    if dtypes.is_bool(dtype):
        fits: Mask = np.isin(_numbers(values), (0, 1))
        return present & ~fits
    if dtypes.is_int(dtype) or dtypes.is_uint(dtype):
        return present & ~_fits_integer(values, np.iinfo(_numpy(dtype, "int64")))
    if dtypes.is_float(dtype):
        with np.errstate(over="ignore"):
            narrowed = _numbers(values).astype(_numpy(dtype, "float64"))
        finite: Mask = np.isfinite(narrowed)
        return present & ~finite
    if dtypes.is_datetime(dtype):
        if pd.api.types.is_numeric_dtype(values.dtype):
            return present  # pandas would take 20260131 for nanoseconds since 1970
        moments = pd.to_datetime(values, errors="coerce", format="ISO8601", utc=True)
        return present & moments.isna().to_numpy()
    if dtypes.is_category(dtype) and dtype.categories is not None:
        return present & ~values.isin(list(dtype.categories)).to_numpy()
    return np.zeros(len(values), dtype=bool)


def _numbers(values: pd.Series) -> npt.NDArray[np.float64]:
    """Return the values as floats, NaN where one is no number."""
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return np.full(len(values), np.nan)
    return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _fits_integer(values: pd.Series, bounds: Any) -> Mask:
    if values.dtype.kind in "iu":  # exactly, beyond the 53 bits of a float
        exact: Mask = ((values >= bounds.min) & (values <= bounds.max)).to_numpy()
        return exact
    numbers = _numbers(values)
    # NaN compares false. 2^63 as a float is just outside of int64, hence `<` with max + 1.
    whole: Mask = numbers == np.floor(numbers)
    within: Mask = (numbers >= bounds.min) & (numbers < bounds.max + 1.0)
    return whole & within


def _numpy(dtype: Any, default: str) -> np.dtype[Any]:
    try:
        return np.dtype(str(dtype).lower())
    except TypeError:
        return np.dtype(default)
