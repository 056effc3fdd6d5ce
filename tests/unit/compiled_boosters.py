"""Models of LightGBM and XGBoost, for where these packages are installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from compiled_cases import ALL, BOTH, NUMERIC, Case, columns_of, of_positive, ordinal, raw, scaled
from sklearn.calibration import CalibratedClassifierCV
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

PACKAGES = ("lightgbm", "xgboost")
REGRESSION = ("regression",)


def cases(package: str) -> Iterator[Case]:
    """Models of an installed package, by the names under which they have rules."""
    yield from (_lightgbm if package == "lightgbm" else _xgboost)(importlib.import_module(package))


def _pair(classifier: Any, regressor: Any, **params: Any) -> Any:
    return lambda task: (regressor if task == "regression" else classifier)(**params)


def _both(package: str, classifier: Any, regressor: Any, **params: Any) -> Iterator[Any]:
    """(name, tasks, maker) of a classifier and a regressor."""
    make = _pair(classifier, regressor, **params)
    for kind, tasks in ((classifier, BOTH), (regressor, REGRESSION)):
        yield f"{package}.{kind.__name__}", tasks, make


def _lightgbm(lgb: Any) -> Iterator[Case]:
    kinds = (lgb.LGBMClassifier, lgb.LGBMRegressor)
    few: dict[str, Any] = {"n_estimators": 10, "verbose": -1}
    for setting, params in {
        "": {},
        "deep": {"num_leaves": 100, "min_child_samples": 1},
        "dart": {"boosting_type": "dart"},
    }.items():
        for name, tasks, make in _both("lightgbm", *kinds, **few, **params):
            yield Case(name, setting, lambda t, m=make: raw(m(t)), tasks)
    parts = ((ordinal(encoded_missing_value=np.nan), ["name", "colour"]), ("passthrough", NUMERIC))
    for name, tasks, make in _both("lightgbm", *kinds, **few, categorical_feature=[0, 1, 4]):
        yield Case(name, "categories", columns_of(*parts, model=make), tasks)
    filled = columns_of((SimpleImputer(), NUMERIC))("regression")[:-1]
    for name, tasks, make in _both("lightgbm", *kinds, **few):
        yield Case(name, "without gaps", lambda t, m=make: make_pipeline(filled, m(t)), tasks)
    for objective in ("poisson", "gamma", "tweedie", "mae", "quantile"):
        model = lgb.LGBMRegressor(**few, objective=objective)
        make = lambda t, m=model: of_positive(raw(m))  # noqa: E731
        yield Case("lightgbm.LGBMRegressor", objective, make)
    calibrated = CalibratedClassifierCV(raw(lgb.LGBMClassifier(**few)), cv=2)
    yield Case("lightgbm.LGBMClassifier", "calibrated", lambda t: calibrated, BOTH)
    for setting, reason, params in (
        ("zeros are missing", "zeros for missing", {"zero_as_missing": True}),
        ("lines in leaves", "lines in its leaves", {"linear_tree": True}),
        ("averaged", "averages", {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1}),
        ("square roots", "sqrt", {"reg_sqrt": True}),
    ):
        model = lgb.LGBMRegressor(**few, **params)
        make = lambda t, m=model: raw(m)  # noqa: E731
        yield Case("lightgbm.LGBMRegressor", setting, make, REGRESSION, reason)


def _xgboost(xgb: Any) -> Iterator[Case]:
    kinds = (xgb.XGBClassifier, xgb.XGBRegressor)
    for setting, params in {
        "": {"n_estimators": 10},
        "many": {"n_estimators": 60, "max_depth": 3},
        "base score": {"n_estimators": 5, "base_score": 0.3},
    }.items():
        for name, tasks, make in _both("xgboost", *kinds, **params):
            yield Case(name, setting, lambda t, m=make: raw(m(t)), tasks)
    forests = (xgb.XGBRFClassifier, xgb.XGBRFRegressor)
    for name, tasks, make in _both("xgboost", *forests, n_estimators=5):
        binary = tasks[:1]
        yield Case(name, "", lambda t, m=make: raw(m(t)), binary)
    for objective in ("count:poisson", "reg:gamma", "reg:tweedie"):
        model = xgb.XGBRegressor(n_estimators=10, objective=objective)
        yield Case("xgboost.XGBRegressor", objective, lambda t, m=model: raw(m), REGRESSION)
    model = xgb.XGBClassifier(n_estimators=10)
    calibrated = CalibratedClassifierCV(raw(model), cv=2)
    yield Case("xgboost.XGBClassifier", "calibrated", lambda t: calibrated, BOTH)
    stack = importlib.import_module("sklearn.ensemble").StackingClassifier(
        [("x", raw(model)), ("l", scaled(LogisticRegression()))], LogisticRegression(), cv=2
    )
    yield Case("xgboost.XGBClassifier", "in a stack", lambda t: stack, BOTH)
    isotonic = CalibratedClassifierCV(raw(model), cv=2, method="isotonic")
    for setting, reason, made in (
        ("dart", "no plain sum", raw(xgb.XGBClassifier(n_estimators=5, booster="dart"))),
        ("missing=0", "for missing", raw(xgb.XGBClassifier(n_estimators=5, missing=0.0))),
        ("isotonic", "single precision", isotonic),
    ):
        yield Case("xgboost.XGBClassifier", setting, lambda t, m=made: m, ("binary",), reason)


__all__ = ["ALL", "PACKAGES", "cases"]
