"""Feature engineering that can be served without pandas and scikit-learn.

Write the features as a function over arrays and put it into a pipeline::

    def features(columns):
        limit = columns["LIMIT_BAL"]
        return {"limit": limit, "use": columns["BILL_AMT1"] / np.maximum(limit, 1)}

    make_pipeline(ArrayFeatures(features), HistGradientBoostingClassifier())

The same function is what training runs and what the serving form is made from, so the two cannot
drift apart. It must work row by row with numpy's elementwise functions (`np.where` instead of
`if`, `np.maximum(a, b)` instead of `max`); what cannot be compiled is still correct, and served by
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

Columns = Mapping[str, NDArray[np.float64]]
Features = dict[str, NDArray[Any]]

ROWS = 65_536  # evaluated at once, so that intermediate arrays stay small


class ArrayFeatures(TransformerMixin, BaseEstimator):
    """Transformer that computes features with a function over arrays.

    Parameters
    ----------
    function
        Takes a mapping of column name to 1-d float64 array (NaN for missing, booleans as 0 and 1,
        dates as days since 1970-01-01) and returns a dict of feature name to 1-d array. It must
        live in a module, as any function in a scikit-learn pipeline, and treat rows independently.
    """

    def __init__(self, function: Callable[[Columns], Features]) -> None:
        self.function = function

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:  # noqa: ARG002
        """Learn the names of the columns; the function itself learns nothing."""
        if not isinstance(X, pd.DataFrame):
            raise TypeError("ArrayFeatures needs a DataFrame, since its function names columns.")
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        self.features_ = list(self._compute(X.iloc[:2]))
        if not self.features_:
            raise ValueError(f"{self.function.__name__} returned no features.")
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Return the features as an array of shape (rows, features)."""
        check_is_fitted(self)
        out = np.empty((len(X), len(self.features_)))
        for start in range(0, len(X), ROWS):
            part = X.iloc[start : start + ROWS]
            for j, (name, values) in enumerate(self._compute(part).items()):
                if j >= len(self.features_) or name != self.features_[j]:
                    raise ValueError(
                        f"{self.function.__name__} returned other features than in training."
                    )
                out[start : start + len(part), j] = values
        return out

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:  # noqa: ARG002
        check_is_fitted(self)
        return np.asarray(self.features_, dtype=object)

    def _compute(self, X: pd.DataFrame) -> Features:
        with np.errstate(all="ignore"):
            features = self.function(FrameColumns(X))
        for name, values in features.items():
            if np.shape(values) not in ((), (len(X),)):
                raise ValueError(
                    f"{self.function.__name__} returned feature {name!r} of shape "
                    f"{np.shape(values)}, expected one value for each of {len(X)} rows."
                )
        return features


class NumberColumns(TransformerMixin, BaseEstimator):
    """Transformer that turns numbers, booleans and dates into float64, as a service gets them."""

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:  # noqa: ARG002
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float64]:
        check_is_fitted(self)
        out = np.empty(X.shape)
        for j, name in enumerate(X.columns):
            out[:, j] = numbers(X[name])
        return out

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:  # noqa: ARG002
        check_is_fitted(self)
        return np.asarray(self.feature_names_in_, dtype=object)


class FrameColumns(Mapping[str, NDArray[np.float64]]):
    """The columns of a frame as float64 arrays, converted when asked for."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._frame.columns:
            raise KeyError(name)
        return numbers(self._frame[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame.columns)

    def __len__(self) -> int:
        return self._frame.shape[1]


def is_text(series: pd.Series[Any]) -> bool:
    """Tell text (and anything else that is no number, boolean or date) from numbers."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return is_text(pd.Series(dtype.categories))
    if pd.api.types.is_object_dtype(dtype):
        # booleans with missing values are objects
        return pd.api.types.infer_dtype(series, skipna=True) not in ("boolean", "empty")
    return not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_datetime64_any_dtype(dtype))


def numbers(series: pd.Series[Any]) -> NDArray[np.float64]:
    """Return a column as float64: NaN for missing, booleans as 0 and 1, dates as days since 1970.

    Raises
    ------
    TypeError
        The column is text.
    """
    dtype = series.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype):
        if isinstance(dtype, pd.DatetimeTZDtype):
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        days = series.to_numpy().astype("datetime64[ns]").astype(np.int64) / 86_400e9
        return np.where(series.isna().to_numpy(), np.nan, days)
    if is_text(series):
        raise TypeError(
            f"Column {series.name!r} is text; a feature function takes numbers, dates, booleans. "
            "Encode it by a ColumnTransformer beside the ArrayFeatures."
        )
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def texts(series: pd.Series[Any]) -> NDArray[Any]:
    """Return a text column as objects: str, and None for missing."""
    values = series.astype(object).to_numpy(dtype=object, copy=True)
    values[series.isna().to_numpy()] = None
    return values
