"""Rules for scikit-learn's models: trees become treelite's, linear models a matrix."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import treelite
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
    RidgeCV,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)
from treelite.core import TreeliteError

from trilho.training.compile import Builder, CompileRefused, Table, compiles, lower, name_of


@compiles(HistGradientBoostingClassifier, HistGradientBoostingRegressor)
def _hist_gradient_boosting(model: Any, table: Table, builder: Builder) -> Table:
    if model._preprocessor is None:
        return _trees(model, model, table, builder)
    # The model numbers its categories, and moves them to the front. Treelite would undo that and
    # take a category of 0.5 for 0, so it gets the trees as they are.
    numbered = np.flatnonzero(model.is_categorical_).tolist()
    others = np.flatnonzero(~model.is_categorical_).tolist()
    encoded = lower(
        model._preprocessor.named_transformers_["encoder"], table.take(numbered), builder
    )
    inner = copy.copy(model)
    inner._preprocessor = None
    return _trees(model, inner, Table(encoded.cells + table.take(others).cells), builder)


@compiles(GradientBoostingClassifier, GradientBoostingRegressor)
def _gradient_boosting(model: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(_single_precision(model, table, builder), model, missing=False)
    if getattr(model, "loss", "") == "exponential":
        raise CompileRefused("GradientBoostingClassifier with exponential loss")
    return _trees(model, model, table, builder)


@compiles(RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)
def _forest(model: Any, table: Table, builder: Builder) -> Table:
    missing = any(tree.tree_.missing_go_to_left.any() for tree in model.estimators_)
    return _averaged(model, model, table, builder, missing)


@compiles(DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor)
def _tree(model: Any, table: Table, builder: Builder) -> Table:
    classifier = hasattr(model, "classes_")
    forest: Any = RandomForestClassifier() if classifier else RandomForestRegressor()
    forest.estimators_, forest.n_estimators = [model], 1
    forest.n_outputs_, forest.n_features_in_ = model.n_outputs_, model.n_features_in_
    if classifier:
        forest.n_classes_, forest.classes_ = model.n_classes_, model.classes_
    return _averaged(model, forest, table, builder, bool(model.tree_.missing_go_to_left.any()))


def _averaged(model: Any, forest: Any, table: Table, builder: Builder, _missing: bool) -> Table:
    if model.n_outputs_ != 1:
        raise CompileRefused(f"{name_of(model)} has several outputs")
    # whether scikit-learn refuses NaN depends on what stood in the training data
    tree = forest.estimators_[0]
    allowed = (
        tree._missing_values_in_feature_mask is not None
        if hasattr(tree, "_missing_values_in_feature_mask")
        else _missing
    )
    table = builder.require(_single_precision(model, table, builder), model, missing=allowed)
    return _trees(model, forest, table, builder)


def _single_precision(model: Any, table: Table, builder: Builder) -> Table:
    return builder.table("float32", table, model)


def _trees(model: Any, source: Any, table: Table, builder: Builder) -> Table:
    if len(table.cells) != model.n_features_in_:
        raise CompileRefused(f"{name_of(model)} gets other columns than in training")
    try:
        trees = treelite.sklearn.import_model(source)
    except (TreeliteError, NotImplementedError, AssertionError) as error:
        raise CompileRefused(f"treelite cannot take {name_of(model)}: {error}") from None
    header = trees.get_header_accessor()
    width = int(np.max(header.get_field("num_class")))
    softmax = header.get_field("postprocessor") == "softmax"  # treelite's is of single precision
    args = {"file": builder.file("treelite", trees.serialize_bytes()), "raw": softmax}
    scores = builder.add("trees", [builder.block(table, model)], args)
    return builder.result(builder.add("softmax", [scores]) if softmax else scores, width)


@compiles(LogisticRegression, LogisticRegressionCV)
def _logistic_regression(model: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(table, model, missing=False)
    binary = len(model.classes_) == 2
    if not binary and model.solver == "liblinear":
        raise CompileRefused("LogisticRegression of several classes by liblinear")
    scores = builder.add(
        "linear",
        [builder.block(table, model)],
        weights=model.coef_.T,
        intercept=np.broadcast_to(model.intercept_, len(model.coef_)),
    )
    link = builder.add("sigmoid" if binary else "softmax", [scores])
    return builder.result(link, len(model.coef_))


@compiles(LinearRegression, Ridge, RidgeCV, Lasso, ElasticNet)
def _linear_regression(model: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(table, model, missing=False)
    weights = np.atleast_2d(model.coef_).T
    block = builder.add(
        "linear",
        [builder.block(table, model)],
        weights=weights,
        intercept=np.broadcast_to(model.intercept_, weights.shape[1]),
    )
    return builder.result(block, weights.shape[1])
