"""Rules for scikit-learn's trees and ensembles of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
from sklearn.ensemble._gb import _init_raw_predictions
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)
from sklearn.utils import get_tags

from trilho.compiled.plan import Ref
from trilho.training.builder import Builder, Cell, Table
from trilho.training.compile import CompileRefused, lower, name_of, scores
from trilho.training.forest import Forest, constant, tree

# ── boosting on histograms ────────────────────────────────────────────────────────────────────────


@scores(HistGradientBoostingClassifier, HistGradientBoostingRegressor)
def _histogram_boosting(model: Any, table: Table, builder: Builder, method: str) -> Table:
    if model._preprocessor is not None:
        # it numbers its categories, and moves them to the front
        numbered = np.flatnonzero(model.is_categorical_).tolist()
        others = np.flatnonzero(~model.is_categorical_).tolist()
        encoder = model._preprocessor.named_transformers_["encoder"]
        encoded = lower(encoder, table.take(numbered), builder)
        table = Table(encoded.cells + table.take(others).cells)
    base = np.ravel(model._baseline_prediction)
    # scikit-learn starts its sum at the base scores, and sums of floats depend on their order
    trees = [constant(score) for score in base]
    trees += [_histogram_tree(p) for stage in model._predictors for p in stage]
    return _boosted(model, trees, len(base), table, builder, method)


def _histogram_tree(predictor: Any) -> Forest:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(np.bool_)
    categorical = nodes["is_categorical"].astype(np.bool_) & ~leaf
    return Forest.of_tree(
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        feature=np.where(leaf, 0, nodes["feature_idx"]),
        number=np.where(leaf, nodes["value"], nodes["num_threshold"]),
        missing_left=nodes["missing_go_to_left"],
        bitset=np.where(categorical, nodes["bitset_idx"].astype(np.int64), -1),
        bitsets=np.asarray(predictor.raw_left_cat_bitsets, np.uint32),
    )


# ── boosting with exact splits ────────────────────────────────────────────────────────────────────


@scores(GradientBoostingClassifier, GradientBoostingRegressor)
def _gradient_boosting(model: Any, table: Table, builder: Builder, method: str) -> Table:
    table = builder.require(_single(table, model, builder), model, missing=False)
    base = _base_scores(model)
    trees = [constant(score) for score in base]
    for stage in model.estimators_:
        for estimator in stage:
            part = tree(estimator.tree_)
            leaf = part.left == -1
            values = model.learning_rate * estimator.tree_.value.ravel()
            trees.append(part._replace(number=np.where(leaf, values, part.number)))
    return _boosted(model, trees, len(base), table, builder, method)


def _base_scores(model: Any) -> NDArray[np.float64]:
    """What the sum of the trees starts at, if that is the same for every row."""
    width = model.n_trees_per_iteration_
    if isinstance(model.init_, str) and model.init_ == "zero":
        return np.zeros(width)
    if not type(model.init_).__module__.startswith("sklearn.dummy"):
        raise CompileRefused(f"{name_of(model)} starts with a {name_of(model.init_)}")
    if getattr(model.init_, "strategy", "") not in ("prior", "mean", "quantile", "constant"):
        raise CompileRefused(f"{name_of(model)} starts with a random guess")
    rows = np.zeros((1, model.n_features_in_), np.float32)
    classifier = hasattr(model, "classes_")
    scores = _init_raw_predictions(rows, model.init_, model._loss, classifier)
    return np.asarray(scores, np.float64).ravel()


# ── both ──────────────────────────────────────────────────────────────────────────────────────────


def _boosted(
    model: Any, trees: list[Forest], width: int, table: Table, builder: Builder, method: str
) -> Table:
    """The sum of trees, and the link function of the model's loss."""
    link = type(model._loss.link).__name__
    sigmoid = method == "predict_proba" and link == "LogitLink"
    kind = "sigmoid" if sigmoid else "sum"
    block = add_trees(builder, builder.block(table, model, single=True), trees, width, kind)
    if not hasattr(model, "classes_"):
        if method != "predict" or link not in ("IdentityLink", "LogLink"):
            raise CompileRefused(f"{name_of(model)} with {link} is asked to {method}")
        return builder.result(builder.add("exp", [block]) if link == "LogLink" else block, width)
    if method == "predict_proba":
        if link == "HalfLogitLink":
            block = builder.add("multiply", [block], values=np.full(width, 2.0))
        if link != "LogitLink":
            if link not in ("HalfLogitLink", "MultinomialLogit"):
                raise CompileRefused(f"{name_of(model)} has a {link}")
            block = builder.add("softmax" if link == "MultinomialLogit" else "sigmoid", [block])
        return builder.result(block, width)
    if method == "decision_function":
        return builder.result(block, width)
    if method != "predict":
        raise CompileRefused(f"{name_of(model)} is asked to {method}")
    if width == 1:  # at zero the two kinds of boosting decide differently
        zero = isinstance(model, GradientBoostingClassifier)
        return Table([Cell(builder.add("sign", [block], {"zero": zero}))])
    return Table([Cell(builder.add("largest", [block]))])


# ── forests and single trees ──────────────────────────────────────────────────────────────────────


@scores(RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)
def _forest(model: Any, table: Table, builder: Builder, method: str) -> Table:
    return _averaged(model, model.estimators_, table, builder, method)


@scores(DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor)
def _tree(model: Any, table: Table, builder: Builder, method: str) -> Table:
    return _averaged(model, [model], table, builder, method)


def _averaged(
    model: Any, estimators: Iterable[Any], table: Table, builder: Builder, method: str
) -> Table:
    estimators = list(estimators)
    if model.n_outputs_ != 1:
        raise CompileRefused(f"{name_of(model)} has several outputs")
    missing = not table.sparse and bool(get_tags(estimators[0]).input_tags.allow_nan)
    table = builder.require(_single(table, model, builder), model, missing=missing)
    classes = len(model.classes_) if hasattr(model, "classes_") else 1
    wanted = ("predict_proba", "predict") if classes > 1 else ("predict",)
    if method not in wanted or (hasattr(model, "classes_") and classes < 2):
        raise CompileRefused(f"{name_of(model)} is asked to {method}")
    block = builder.block(table, model)
    if classes == 2 and method == "predict_proba":
        # each class by itself: mostly only one of them is asked for
        alone = [_mean(builder, block, estimators, slice(c, c + 1), 1) for c in (0, 1)]
        return Table([builder.result(mean, 1).cells[0] for mean in alone])
    mean = _mean(builder, block, estimators, slice(0, classes), classes)
    if method == "predict" and classes > 1:
        return Table([Cell(builder.add("largest", [mean]))])
    return builder.result(mean, classes)


def _mean(builder: Builder, block: Ref, estimators: list[Any], chosen: slice, outputs: int) -> Ref:
    """The mean of the trees' leaves, for some classes."""
    trees = []
    for estimator in estimators:
        part = tree(estimator.tree_)
        leaves = estimator.tree_.value[part.left == -1, 0, :]
        trees.append(part._replace(leaves=leaves[:, chosen]))
    return add_trees(builder, block, trees, outputs, "mean")


def _single(table: Table, model: Any, builder: Builder) -> Table:
    """Rounded to single precision, as these trees see their features."""
    block = builder.add("float32", [builder.block(table, model, single=True)])
    return builder.result(block, len(table.cells), table.names)


def add_trees(
    builder: Builder,
    block: Ref,
    trees: list[Forest],
    outputs: int,
    kind: str,
    **arrays: NDArray[Any],
) -> Ref:
    """Add the operation that evaluates `trees`; see `trilho.compiled.trees`."""
    if kind != "mean" and outputs == 2:
        raise CompileRefused("a sum of trees gives two scores")
    joined = Forest.join(trees)
    return builder.add(
        "trees", [block], {"kind": kind, "outputs": outputs}, **joined.arrays(), **arrays
    )
