"""Rules for what holds other estimators: pipelines, column transformers, unions, wrappers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import FeatureUnion, Pipeline

from trilho.training.builder import Builder, Cell, Table, gives_frame, matrix
from trilho.training.compile import CompileRefused, compiles, lower, name_of, scores


@scores(Pipeline)
def _pipeline(pipeline: Any, table: Table, builder: Builder, method: str) -> Table:
    steps = [step for _, step in pipeline.steps]
    for step in steps[:-1]:
        if not _passes(step):
            table = lower(step, table, builder)
    if _passes(steps[-1]):
        if method != "transform":
            raise CompileRefused("the pipeline ends without a model")
        return table
    return lower(steps[-1], table, builder, method)


def _passes(step: Any) -> bool:
    return step is None or (isinstance(step, str) and step == "passthrough")


@compiles(ColumnTransformer)
def _column_transformer(transformer: Any, table: Table, builder: Builder) -> Table:
    parts = []
    for name, fitted, _ in transformer.transformers_:
        if isinstance(fitted, str) and fitted == "drop":
            continue
        part = table.take(transformer._transformer_to_input_indices[name])
        if part.cells:
            passed = isinstance(fitted, str) and fitted == "passthrough"
            parts.append(part if passed else lower(fitted, part, builder))
    return _side_by_side(transformer, parts, sparse=bool(transformer.sparse_output_))


@compiles(FeatureUnion)
def _feature_union(union: Any, table: Table, builder: Builder) -> Table:
    weights = union.transformer_weights or {}
    parts = []
    for name, fitted in union.transformer_list:
        if isinstance(fitted, str) and fitted == "drop":
            continue
        passed = isinstance(fitted, str) and fitted == "passthrough"
        part = table if passed else lower(fitted, table, builder)
        weight = weights.get(name)
        if weight is not None:
            factors = np.full(len(part.cells), float(weight))
            weighted = builder.table("multiply", part, union, values=factors)
            part = weighted._replace(sparse=part.sparse)
        parts.append(part)
    return _side_by_side(union, parts, sparse=any(part.sparse for part in parts))


def _side_by_side(owner: Any, parts: list[Table], *, sparse: bool) -> Table:
    cells: list[Cell] = [cell for part in parts for cell in part.cells]
    if not cells:
        raise CompileRefused(f"{name_of(owner)} gives no columns")
    names = _names(owner, cells)
    if sparse:
        cells = [Cell(c.ref, "number" if c.kind == "text" else c.kind) for c in cells]
        if any(c.kind == "text" for part in parts for c in part.cells):
            raise CompileRefused(f"{name_of(owner)} puts text into a sparse matrix")
        return matrix(cells, sparse=True)._replace(names=names)
    if gives_frame(owner):  # each column keeps its type
        return Table(cells, names)
    return matrix(cells)._replace(names=names)


def _names(owner: Any, cells: list[Cell]) -> list[str] | None:
    """Names of the columns, to say in a message which one is meant."""
    try:
        names = [str(name) for name in owner.get_feature_names_out()]
    except (AttributeError, ValueError, TypeError):
        return None
    return names if len(names) == len(cells) else None


@scores(FrozenEstimator)
def _frozen(frozen: Any, table: Table, builder: Builder, method: str) -> Table:
    return lower(frozen.estimator, table, builder, method)


@scores(GridSearchCV, RandomizedSearchCV)
def _search(search: Any, table: Table, builder: Builder, method: str) -> Table:
    return lower(search.best_estimator_, table, builder, method)


@scores(TunedThresholdClassifierCV, FixedThresholdClassifier)
def _threshold(model: Any, table: Table, builder: Builder, method: str) -> Table:
    if method == "predict":
        raise CompileRefused(f"{name_of(model)} is asked for its decisions, not its scores")
    fitted = getattr(model, "estimator_", model.estimator)
    return lower(fitted, table, builder, method)
