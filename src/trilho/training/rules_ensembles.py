"""Rules for several models side by side or on top of each other, and for changed targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, RobustScaler, StandardScaler

from trilho.compiled.plan import Ref
from trilho.training.builder import Builder, Cell, Table, matrix
from trilho.training.compile import CompileRefused, lower, name_of, scores
from trilho.training.trace import trace_elementwise


def two_columns(table: Table, builder: Builder) -> Table:
    """Probabilities of both classes, where a rule gives only the second's."""
    if len(table.cells) != 1:
        return table
    second = table.cells[0]
    return Table([Cell(builder.add("complement", [second.ref]), second.kind), second])


# ── voting ────────────────────────────────────────────────────────────────────────────────────────


@scores(VotingClassifier)
def _voting_classifier(model: Any, table: Table, builder: Builder, method: str) -> Table:
    classes = len(model.classes_)
    if model.voting == "hard":
        if method != "predict":
            raise CompileRefused(f"VotingClassifier has no {method} when it counts votes")
        votes = [_label(part, table, builder) for part in model.estimators_]
        weights = _weights(model)
        counted = weights if len(weights) else np.ones(len(votes))
        block = builder.add("votes", votes, {"classes": classes}, weights=counted)
        return Table([Cell(builder.add("largest", [block]))])
    if method not in ("predict", "predict_proba"):
        raise CompileRefused(f"VotingClassifier has no {method}")
    parts = []
    for part in model.estimators_:
        given = two_columns(lower(part, table, builder, "predict_proba"), builder)
        if len(given.cells) != classes:
            raise CompileRefused(f"{name_of(part)} did not see all classes")
        parts.append(given)
    block = _average(model, parts, builder)
    if method == "predict":
        return Table([Cell(builder.add("largest", [block]))])
    return builder.result(block, classes)


@scores(VotingRegressor)
def _voting_regressor(model: Any, table: Table, builder: Builder, method: str) -> Table:
    if method != "predict":
        raise CompileRefused(f"VotingRegressor is asked to {method}")
    parts = [lower(part, table, builder, "predict") for part in model.estimators_]
    if any(len(part.cells) != 1 for part in parts):
        raise CompileRefused("VotingRegressor holds a model that gives several values a row")
    return builder.result(_average(model, parts, builder), 1)


def _average(model: Any, parts: list[Table], builder: Builder) -> Ref:
    """The weighted mean of what the models give, which scikit-learn puts into one array."""
    if all(cell.kind == "single" for part in parts for cell in part.cells):
        raise CompileRefused(f"{name_of(model)} computes in single precision")
    blocks = [builder.block(part, model, single=True) for part in parts]
    return builder.add("average", blocks, weights=_weights(model))


def _weights(model: Any) -> Any:
    weights = model._weights_not_none
    return np.array([]) if weights is None else np.asarray(weights, np.float64)


def _label(model: Any, table: Table, builder: Builder) -> Ref:
    """The number of the class that a model decides for; it was fitted to such numbers."""
    classes = np.asarray(model.classes_)
    if classes.tolist() != list(range(len(classes))):
        raise CompileRefused(f"{name_of(model)} did not see all classes")
    return lower(model, table, builder, "predict").cells[0].ref


# ── stacking ──────────────────────────────────────────────────────────────────────────────────────


@scores(StackingClassifier, StackingRegressor)
def _stacking(model: Any, table: Table, builder: Builder, method: str) -> Table:
    classifier = hasattr(model, "classes_")
    cells: list[Cell] = []
    for part, asked in zip(model.estimators_, model.stack_method_, strict=True):
        cells += _stacked(model, part, asked, table, builder).cells
    sparse = bool(model.passthrough) and table.sparse
    if model.passthrough:
        cells += table.cells
    final = model.final_estimator_
    if classifier and final.classes_.tolist() != list(range(len(model.classes_))):
        raise CompileRefused("the stack's last model did not see all classes")
    return lower(final, matrix(cells, sparse=sparse), builder, method)


def _stacked(model: Any, part: Any, asked: str, table: Table, builder: Builder) -> Table:
    if asked == "predict" and hasattr(part, "classes_"):
        return Table([Cell(_label(part, table, builder), "whole")])
    given = lower(part, table, builder, asked)
    if asked != "predict_proba":
        return given
    # of two probabilities only the second is a feature
    binary = len(model.classes_) == 2
    return Table(given.cells[-1:]) if binary else two_columns(given, builder)


# ── changed targets ───────────────────────────────────────────────────────────────────────────────


@scores(TransformedTargetRegressor)
def _transformed_target(model: Any, table: Table, builder: Builder, method: str) -> Table:
    if method != "predict":
        raise CompileRefused(f"TransformedTargetRegressor is asked to {method}")
    given = lower(model.regressor_, table, builder, "predict")
    if len(given.cells) != 1:
        raise CompileRefused("TransformedTargetRegressor predicts several values a row")
    back = model.transformer_
    if given.cells[0].kind != "number":
        raise CompileRefused("TransformedTargetRegressor turns single precision back")
    if type(back) is FunctionTransformer:
        return _function_back(back, given, builder)
    if type(back) is StandardScaler:
        steps = [("multiply", back.scale_, back.with_std), ("add", back.mean_, back.with_mean)]
    elif type(back) is RobustScaler:
        steps = [
            ("multiply", back.scale_, back.with_scaling),
            ("add", back.center_, back.with_centering),
        ]
    elif type(back) is MinMaxScaler and not back.clip:
        steps = [("subtract", back.min_, True), ("divide", back.scale_, True)]
    else:
        raise CompileRefused(f"TransformedTargetRegressor turns {name_of(back)} back")
    given = builder.require(Table(given.cells), back, missing=True)
    block = builder.block(given, model)
    for op, numbers, applied in steps:
        if applied:
            block = builder.add(op, [block], values=np.asarray(numbers, np.float64))
    return builder.result(block, 1)


def _function_back(back: Any, given: Table, builder: Builder) -> Table:
    if back.validate:
        given = builder.require(given, back, missing=False)
    if back.inverse_func is None:
        return given
    arguments = back.inv_kw_args or {}
    traced = trace_elementwise(lambda x: back.inverse_func(x, **arguments))
    if not traced.inputs:
        raise CompileRefused("the inverse function ignores the prediction")
    block = builder.add(
        "formula",
        [given.cells[0].ref],
        {"steps": traced.steps, "outputs": traced.outputs},
        constants=traced.constants,
    )
    return builder.result(block, 1)
