"""What goes around a bare estimator, so that it can take any table."""

from __future__ import annotations

from typing import Any

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.utils import get_tags

from trilho.features import NumberColumns

# Rarer categories are joined into one: a column of names must not become thousands of columns.
MAX_CATEGORIES = {"one-hot": 30, "ordinal": 200}


def preprocess(estimator: Any, kinds: dict[str, str]) -> Pipeline:
    """Return a pipeline of preprocessing by column kind, and the estimator.

    Numbers, booleans (0 and 1) and dates (days since 1970) stay as they are for trees, which take
    missing values, and are filled with the median and scaled for other models. Text is numbered for
    trees and one-hot encoded for others; unknown and rare categories share a place.
    """
    trees = _is_tree(estimator)
    text = [name for name, kind in kinds.items() if kind == "string"]
    other = [name for name in kinds if name not in text]
    return Pipeline(
        [
            (
                "preprocessing",
                ColumnTransformer(
                    [
                        ("numbers", _numbers(estimator, trees), other),
                        ("text", _text(trees), text),
                    ],
                    sparse_threshold=0.0,
                ),
            ),
            ("model", estimator),
        ]
    )


def _numbers(estimator: Any, trees: bool) -> Pipeline:
    steps: list[tuple[str, Any]] = [("numbers", NumberColumns())]
    if not (trees and get_tags(estimator).input_tags.allow_nan):
        steps.append(("fill", SimpleImputer(strategy="median", keep_empty_features=True)))
    if not trees:
        steps.append(("scale", StandardScaler()))
    return Pipeline(steps)


def _text(trees: bool) -> Any:
    if trees:
        return OrdinalEncoder(
            handle_unknown="use_encoded_value",
            unknown_value=-1,
            encoded_missing_value=-2,
            max_categories=MAX_CATEGORIES["ordinal"],
        )
    return OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
        max_categories=MAX_CATEGORIES["one-hot"],
    )


def _is_tree(estimator: Any) -> bool:
    """Tell models of trees, to which scale and order of categories matter little."""
    module = type(estimator).__module__
    return module.startswith(("sklearn.tree", "lightgbm", "xgboost", "catboost")) or (
        module.startswith("sklearn.ensemble")
        and any(word in module for word in ("forest", "gb", "gradient_boosting", "bagging"))
    )
