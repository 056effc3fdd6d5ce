"""Rules for linear models: a matrix and a link function."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    GammaRegressor,
    HuberRegressor,
    Lars,
    LarsCV,
    Lasso,
    LassoCV,
    LassoLars,
    LassoLarsCV,
    LassoLarsIC,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    OrthogonalMatchingPursuit,
    OrthogonalMatchingPursuitCV,
    Perceptron,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    SGDRegressor,
    TheilSenRegressor,
    TweedieRegressor,
)
from sklearn.svm import LinearSVC, LinearSVR

from trilho.compiled.plan import Ref
from trilho.training.builder import Builder, Cell, Table
from trilho.training.compile import CompileRefused, name_of, scores


@scores(
    *(LinearRegression, Ridge, RidgeCV, BayesianRidge, ARDRegression, HuberRegressor),
    *(Lasso, LassoCV, ElasticNet, ElasticNetCV, Lars, LarsCV, LassoLars, LassoLarsCV, LassoLarsIC),
    *(OrthogonalMatchingPursuit, OrthogonalMatchingPursuitCV, QuantileRegressor, TheilSenRegressor),
    *(SGDRegressor, LinearSVR),
)
def _regression(model: Any, table: Table, builder: Builder, method: str) -> Table:
    if method != "predict":
        raise CompileRefused(f"{name_of(model)} has no {method}")
    block, width = _decision(model, table, builder)
    return builder.result(block, width)


@scores(PoissonRegressor, GammaRegressor, TweedieRegressor)
def _generalised(model: Any, table: Table, builder: Builder, method: str) -> Table:
    if method != "predict":
        raise CompileRefused(f"{name_of(model)} has no {method}")
    block, width = _decision(model, table, builder)
    link = type(model._base_loss.link).__name__
    if link == "LogLink":
        block = builder.add("exp", [block])
    elif link != "IdentityLink":
        raise CompileRefused(f"{name_of(model)} has a {link}")
    return builder.result(block, width)


@scores(LogisticRegression, LogisticRegressionCV, LinearDiscriminantAnalysis)
def _logistic(model: Any, table: Table, builder: Builder, method: str) -> Table:
    block, width = _decision(model, table, builder)
    if method == "predict_proba":
        binary = len(model.classes_) == 2
        if not binary and getattr(model, "solver", "") == "liblinear":
            raise CompileRefused(f"{name_of(model)} of several classes by liblinear")
        return builder.result(builder.add("sigmoid" if binary else "softmax", [block]), width)
    return _decided(model, block, width, builder, method)


@scores(SGDClassifier)
def _stochastic(model: Any, table: Table, builder: Builder, method: str) -> Table:
    block, width = _decision(model, table, builder)
    if method != "predict_proba":
        return _decided(model, block, width, builder, method)
    if model.loss == "log_loss":
        block = builder.add("sigmoid", [block])
    elif model.loss == "modified_huber":  # (clip(score, -1, 1) + 1) / 2
        for op, number in (("maximum", -1.0), ("minimum", 1.0), ("add", 1.0), ("divide", 2.0)):
            block = builder.add(op, [block], values=np.full(width, number))
    else:
        raise CompileRefused(f"SGDClassifier gives no probabilities with loss {model.loss!r}")
    if width > 1:
        block = builder.add("shares", [block])
    return builder.result(block, width)


@scores(RidgeClassifier, RidgeClassifierCV, LinearSVC, Perceptron)
def _classifier(model: Any, table: Table, builder: Builder, method: str) -> Table:
    if method == "predict_proba":
        raise CompileRefused(f"{name_of(model)} gives no probabilities")
    block, width = _decision(model, table, builder)
    return _decided(model, block, width, builder, method)


def _decided(model: Any, block: Ref, width: int, builder: Builder, method: str) -> Table:
    if method == "decision_function":
        return builder.result(block, width)
    if method != "predict":
        raise CompileRefused(f"{name_of(model)} is asked to {method}")
    if width == 1:
        return Table([Cell(builder.add("sign", [block], {"zero": False}))])
    return Table([Cell(builder.add("largest", [block]))])


def _decision(model: Any, table: Table, builder: Builder) -> tuple[Ref, int]:
    """The product with the coefficients, and how many columns it has."""
    coefficients = model.coef_
    if hasattr(coefficients, "toarray"):  # after sparsify()
        coefficients = coefficients.toarray()
    if coefficients.dtype != np.float64:
        raise CompileRefused(f"{name_of(model)} computes in single precision")
    table = builder.require(table, model, missing=False, single=True)
    weights = np.atleast_2d(coefficients).T
    if len(weights) != len(table.cells):
        raise CompileRefused(f"{name_of(model)} gets other columns than in training")
    width = weights.shape[1]
    if hasattr(model, "classes_") and width != (len(model.classes_) if width > 1 else 1):
        raise CompileRefused(f"{name_of(model)} gives several labels a row")
    block = builder.add(
        "linear",
        [builder.block(table, model, single=True)],
        weights=weights,
        intercept=np.broadcast_to(np.asarray(model.intercept_, np.float64), width),
    )
    return block, width
