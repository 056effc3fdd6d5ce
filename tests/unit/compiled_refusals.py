"""Models that have no compiled form, with what their refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from compiled_cases import (
    TEXT,
    Case,
    Make,
    columns_of,
    gaps,
    numbers,
    of,
    one_hot,
    ordinal,
    scaled,
    texts,
)
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor, StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    Normalizer,
    OneHotEncoder,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
)

from trilho.features import ArrayFeatures

BINARY = ("binary",)


def rows_mixed(c: Any) -> Any:
    return {"x": c["small"] - np.nanmean(c["small"])}


def hides_its_failure(x: Any) -> Any:
    try:
        return x - x.mean(axis=0)
    except Exception:
        return x * 2.0


def refusals() -> list[Case]:
    return [*_steps(), *_functions(), *_models()]


def _case(
    name: str, setting: str, make: Make, reason: str, tasks: tuple[str, ...] = ("regression",)
) -> Case:
    return Case(name, setting, make, tasks, reason)


def _steps() -> Iterator[Case]:
    flat = SplineTransformer(degree=0, extrapolation="constant", handle_missing="zeros")
    yield _case("SplineTransformer", "constant, degree 0", gaps(flat), "fails beyond the last knot")
    lines = SplineTransformer(degree=1, extrapolation="linear", handle_missing="zeros")
    yield _case("SplineTransformer", "linear, degree 1", gaps(lines), "extrapolates several lines")
    for step in (Normalizer(), QuantileTransformer(n_quantiles=5)):
        sparse = texts(one_hot(), step, sparse_threshold=1)
        yield _case(type(step).__name__, "sparse", sparse, "gets a sparse matrix")
    bins = KBinsDiscretizer(3, dtype=np.float32, quantile_method="averaged_inverted_cdf")
    yield _case("KBinsDiscretizer", "float32", numbers(bins), "computes with")
    single = columns_of((one_hot(dtype=np.float32), ["whole"]))
    yield _case("OneHotEncoder", "float32 alone", single, "computes in single precision")
    bytes_ = texts(one_hot(dtype=np.uint8))
    yield _case("OneHotEncoder", "bytes", bytes_, "gives numbers of type uint8")
    large = columns_of(
        (OneHotEncoder(categories=[[0, 2**53 + 1]], handle_unknown="ignore"), ["whole"])
    )
    yield _case("OneHotEncoder", "beyond 2**53", large, r"whole numbers beyond 2\*\*53")
    encoded = columns_of((one_hot(), ["day"]))
    yield _case("OneHotEncoder", "dates", encoded, "gets a date column")
    dates = columns_of((StandardScaler(), ["day"]))
    yield _case("StandardScaler", "dates", dates, "gets a date column")
    both = SimpleImputer(strategy="most_frequent")
    mixed = columns_of((make_pipeline(both, ordinal()), ["colour", "whole"]))
    yield _case("SimpleImputer", "text and numbers", mixed, "gets text and numbers together")
    filled = SimpleImputer(strategy="constant")
    marked = SimpleImputer(strategy="most_frequent", missing_values=None)
    unknown = columns_of((make_pipeline(filled, marked, one_hot()), ["colour"]))
    yield _case("SimpleImputer", "None", unknown, "takes None for missing")


def _functions() -> Iterator[Case]:
    for setting, function, columns, reason in (
        ("whole numbers", lambda x: x * 3, ["whole"], "may overflow"),
        ("truth values", lambda x: x + x, ["flag"], "otherwise with truth values"),
        ("columns by name", lambda x: x[["small"]], ["small", "flag"], "picks rows"),
        ("over rows", lambda x: x - np.mean(x), ["small"], "np.mean"),
        ("hidden", hides_its_failure, ["small"], ".mean"),
        ("float32", lambda x: x * np.float32(0.1), ["small"], "number of type float32"),
    ):
        step = FunctionTransformer(function)
        yield _case("FunctionTransformer", setting, gaps(step, columns=columns), reason)
    text = make_pipeline(FunctionTransformer(np.array), one_hot())
    yield _case("FunctionTransformer", "text", columns_of((text, TEXT)), "gets a text")
    yield _case("ArrayFeatures", "over rows", gaps(ArrayFeatures(rows_mixed)), "nanmean")


def _models() -> Iterator[Case]:
    for module, names in {
        "sklearn.svm": "SVC",
        "sklearn.neighbors": "KNeighborsClassifier",
        "sklearn.naive_bayes": "GaussianNB",
        "sklearn.neural_network": "MLPClassifier",
    }.items():
        for model in of(module, names):
            reason = rf"no rule for {module}.{names}"
            yield _case(names, "", lambda t, m=model: scaled(m), reason, BINARY)
    begun = GradientBoostingRegressor(init=LinearRegression(), n_estimators=3)
    yield _case("GradientBoostingRegressor", "init", lambda t: scaled(begun), "starts with a")
    squared = TransformedTargetRegressor(
        scaled(Ridge()), transformer=QuantileTransformer(n_quantiles=9)
    )
    yield _case("TransformedTargetRegressor", "quantiles", lambda t: squared, "turns .* back")
    tuned = TunedThresholdClassifierCV(scaled(LogisticRegression()), cv=2)
    stack = StackingClassifier([("a", tuned)], LogisticRegression(), cv=2, stack_method="predict")
    yield _case(
        "TunedThresholdClassifierCV", "its decisions", lambda t: stack, "asked for its", BINARY
    )
