"""The two models that every server answers with: plain scikit-learn, as most people write it.

Each column is scaled or one-hot encoded by a `ColumnTransformer`, then comes a linear model or
gradient boosting. The file is copied beside a pipeline, so it imports scikit-learn alone.
"""

from __future__ import annotations

from typing import Any

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

CATEGORIES = ["SEX", "EDUCATION", "MARRIAGE"]


def lr() -> Pipeline:
    return _pipeline(LogisticRegression(max_iter=1000))


def hgb() -> Pipeline:
    return _pipeline(HistGradientBoostingClassifier(max_iter=100))


def _pipeline(estimator: Any) -> Pipeline:
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer(
        [("categories", categories, CATEGORIES)], remainder=StandardScaler()
    )
    return Pipeline([("columns", columns), ("estimator", estimator)])
