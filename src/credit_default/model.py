"""The model of the example: who will default on a credit card next month."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

from credit_default.features import features
from trilho.features import ArrayFeatures

# Chosen by five-fold cross-validation: slow and many small trees, half-blind at each split.
DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.08,
    "max_iter": 100,
    "max_leaf_nodes": 10,
    "min_samples_leaf": 60,
    "l2_regularization": 10.0,
    "max_features": 0.3,
    "early_stopping": False,
}


def build(**params: Any) -> Pipeline:
    """Return the unfitted pipeline.

    Parameters
    ----------
    params
        Parameters of HistGradientBoostingClassifier that replace the defaults above.
    """
    return Pipeline(
        [
            ("features", ArrayFeatures(features)),
            ("classifier", HistGradientBoostingClassifier(**DEFAULTS | params)),
        ]
    )
