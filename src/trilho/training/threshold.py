"""The decision threshold, chosen on scores of rows that the scoring model had not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from trilho import config


def choose(
    estimator: Any, x: pd.DataFrame, y: NDArray[Any], positive: Any, model: config.Model
) -> float:
    """Return the fixed threshold, or the one that maximises a metric out of fold.

    Parameters
    ----------
    estimator
        Unfitted, with its final parameters.
    x, y
        The training rows.
    positive
        The class that a score at or above the threshold decides.
    """
    if not isinstance(model.threshold, config.Threshold):
        return float(model.threshold)
    scores = np.empty(len(y))
    folds = StratifiedKFold(model.threshold.folds, shuffle=True, random_state=model.seed)
    for rows, out in folds.split(np.zeros(len(y)), y):
        fitted = clone(estimator).fit(x.iloc[rows], y[rows])
        probabilities = fitted.predict_proba(x.iloc[out])
        scores[out] = probabilities[:, list(fitted.classes_).index(positive)]
    return best(y == positive, scores, model.threshold.maximise)


def best(truth: NDArray[np.bool_], scores: NDArray[np.float64], metric: str) -> float:
    """Return the threshold of the largest metric; halfway to the next lower score, so that the
    last bits of a score decide nothing. The higher threshold wins a tie.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # equal scores go together
    hits = np.cumsum(truth[order])[last].astype(np.float64)
    selected = last + 1.0
    positives, rows = float(truth.sum()), float(len(truth))
    false = selected - hits
    recall, fallout = hits / positives, false / (rows - positives)
    values = {
        "f1": 2 * hits / (selected + positives),
        "accuracy": (hits + rows - positives - false) / rows,
        "balanced_accuracy": (recall + 1 - fallout) / 2,
        "ks": recall - fallout,
    }[metric]
    at = int(np.argmax(values))
    low = ranked[last[at] + 1] if last[at] + 1 < len(ranked) else 0.0
    return float((ranked[last[at]] + low) / 2)
