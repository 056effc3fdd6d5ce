"""One model on the frozen hold-out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from trilho import config
from trilho.evaluation.results import Evaluation


def evaluate(
    settings: config.Evaluation,
    *,
    task: str,
    y: np.ndarray,
    scores: np.ndarray,
    frame: pd.DataFrame,
    ids: Sequence[str] | np.ndarray | pd.Index | None = None,
    threshold: float | None = None,
    classes: Sequence[Any] | None = None,
    predict: Callable[[pd.DataFrame], np.ndarray] | None = None,
    features: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate one model on the hold-out rows.

    Parameters
    ----------
    settings
        Resamples, confidence, slices, fairness columns, seed.
    task
        `binary`, `multiclass` or `regression`.
    y : (n,)
        Truth. Binary: 1 for the positive class, else 0; multiclass: index into `classes`.
    scores : (n,) or (n, k)
        Binary: probability of the positive class; multiclass: probability of each class;
        regression: the predicted value.
    frame : n rows
        The raw hold-out rows; must hold the columns named by `settings`, may hold more.
    ids : (n,)
        Row names, used to make the result independent of the order of the rows.
    threshold
        Binary: the positive class is decided from this score on; 0.5 when left out.
    classes
        Names of the classes.
    predict
        Takes rows of `frame[features]`, returns scores like `scores`; without it no permutation
        importance is computed.
    features
        The columns that the model sees; all columns of `frame` when left out.

    Returns
    -------
    Evaluation
        Deterministic for equal arguments, whatever the order of rows or the number of cores.

    Raises
    ------
    RejectedError
        The model gave missing or infinite scores, probabilities outside 0 to 1, or too few scores.
    UsageError
        `settings` name a column that `frame` does not have.
    """
    raise NotImplementedError
