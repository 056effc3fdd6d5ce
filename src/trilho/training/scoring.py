"""Scores of a bundle, by whichever form serves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trilho.bundle import Signature, read_manifest, read_signature
from trilho.training.columns import from_frame, to_frame

CHUNK = 65_536


class Form(Protocol):
    """A model as it is served; see `trilho.compiled.CompiledModel.predict`."""

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]: ...


class SklearnForm:
    """A fitted scikit-learn model that takes the service's columns."""

    def __init__(self, model: Any, signature: Signature) -> None:
        self.model, self.signature = model, signature

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        return predict(self.model, to_frame(columns, self.signature), self.signature)


def predict(model: Any, frame: pd.DataFrame, signature: Signature) -> NDArray[np.float64]:
    """Score a frame with a fitted scikit-learn model, in chunks.

    Returns
    -------
    array
        binary: (rows,) probability of the positive class; multiclass: (rows, classes) in the
        signature's order; regression: (rows,).
    """
    if len(frame) > CHUNK:
        parts = [frame.iloc[i : i + CHUNK] for i in range(0, len(frame), CHUNK)]
        return np.concatenate([predict(model, part, signature) for part in parts])
    if signature.task == "regression":
        return np.asarray(model.predict(frame), np.float64).reshape(len(frame))
    probabilities = np.asarray(model.predict_proba(frame), np.float64)
    if signature.task == "multiclass":
        return probabilities
    return probabilities[:, list(model.classes_).index(signature.positive)]


class Scorer:
    """The serving form of a bundle over frames.

    Parameters
    ----------
    folder
        A verified bundle: its archive may be unpickled.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest, self.digest = read_manifest(folder)
        self.signature = read_signature(folder)
        self.form: Form
        if self.manifest.serving == "compiled":
            from trilho import compiled

            self.form = compiled.load(folder)
        else:
            import joblib

            from trilho.training.estimator import project_path

            with project_path():
                self.form = SklearnForm(joblib.load(folder / "model.joblib"), self.signature)

    def __call__(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Score rows; the frame may hold other columns than the model's."""
        return self.form.predict(from_frame(frame, self.signature))
