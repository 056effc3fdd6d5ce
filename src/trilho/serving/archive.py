"""Models that could not be compiled: scikit-learn itself, behind the same protocol.

This is the one module of the service that imports the training stack; only the larger image holds
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import sklearn  # noqa: F401 - its absence is told here, not from inside an unpickling

from trilho.bundle import Signature
from trilho.errors import DataError
from trilho.serving.columns import Array


class Archive:
    """`model.joblib`, verified before: unpickling executes what it holds."""

    def __init__(self, path: Path, signature: Signature) -> None:
        self._signature = signature
        self._model: Any = joblib.load(path)

    def predict(self, columns: dict[str, Array]) -> Array:
        frame = pd.DataFrame(
            {
                column.name: _series(columns[column.name], column.kind)
                for column in self._signature.columns
            }
        )
        classify = self._signature.task != "regression"
        predict = self._model.predict_proba if classify else self._model.predict
        try:
            scores = np.asarray(predict(frame), dtype=np.float64)
        except ValueError:  # its text quotes the data
            raise DataError("The model cannot take one of the rows.") from None
        if self._signature.task != "binary":
            return scores
        return scores[:, list(self._model.classes_).index(self._signature.positive)]


def _series(values: Array, kind: str) -> pd.Series:
    if kind in ("integer", "boolean") and not np.isnan(values).any():
        return pd.Series(values).astype("int64" if kind == "integer" else "bool")
    if kind == "date":
        microseconds = np.where(np.isnan(values), np.nan, np.rint(values * 86_400_000_000))
        return pd.Series(pd.to_datetime(microseconds, unit="us")).astype("datetime64[us]")
    return pd.Series(values, dtype="float64" if kind in ("number", "integer", "boolean") else "str")
