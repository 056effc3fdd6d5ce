"""Factories that the training tests name in their pipelines."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from trilho.features import ArrayFeatures


def features(columns: Any) -> Any:
    return {
        "a": columns["a"],
        "b": columns["b"],
        "ratio": columns["a"] / (1 + columns["b"] * columns["b"]),
        "flag": columns["flag"],
    }


def hist(**params: Any) -> Any:
    return make_pipeline(
        ArrayFeatures(features), HistGradientBoostingClassifier(**{"max_iter": 10} | params)
    )


def regress(max_iter: int = 10) -> Any:
    return make_pipeline(ArrayFeatures(features), HistGradientBoostingRegressor(max_iter=max_iter))


def narrow(depth: int = 3) -> Any:
    return HistGradientBoostingClassifier(max_depth=depth)


def logistic() -> Any:
    return make_pipeline(ArrayFeatures(features), LogisticRegression())


def machine() -> Any:
    return make_pipeline(ArrayFeatures(features), SVC(probability=False))


def nothing() -> Any:
    return {"not": "an estimator"}


def a_class() -> Any:
    return LogisticRegression


def broken() -> Any:
    raise RuntimeError("no luck")
