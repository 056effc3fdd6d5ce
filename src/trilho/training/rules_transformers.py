"""Rules for scikit-learn's transformers and containers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)

from trilho.compiled.operations import is_missing
from trilho.features import ArrayFeatures, NumberColumns
from trilho.training.compile import Builder, Cell, CompileRefused, Table, compiles, lower
from trilho.training.trace import Traced, trace, trace_elementwise

# ── containers ────────────────────────────────────────────────────────────────────────────────────


@compiles(Pipeline)
def _pipeline(pipeline: Any, table: Table, builder: Builder) -> Table:
    for _, step in pipeline.steps:
        if step is not None and step != "passthrough":
            table = lower(step, table, builder)
    return table


@compiles(ColumnTransformer)
def _column_transformer(transformer: Any, table: Table, builder: Builder) -> Table:
    cells: list[Cell] = []
    for name, fitted, _ in transformer.transformers_:
        if isinstance(fitted, str) and fitted == "drop":
            continue
        part = table.take(transformer._transformer_to_input_indices[name])
        if not part.cells:
            continue
        passed = isinstance(fitted, str) and fitted == "passthrough"
        cells += (part if passed else lower(fitted, part, builder)).cells
    return Table(cells, _frame_names(transformer, cells))


@compiles(FeatureUnion)
def _feature_union(union: Any, table: Table, builder: Builder) -> Table:
    cells: list[Cell] = []
    weights = union.transformer_weights or {}
    for name, fitted in union.transformer_list:
        if isinstance(fitted, str) and fitted == "drop":
            continue
        if name in weights:
            raise CompileRefused("FeatureUnion has transformer_weights")
        passed = isinstance(fitted, str) and fitted == "passthrough"
        cells += (table if passed else lower(fitted, table, builder)).cells
    return Table(cells, _frame_names(union, cells))


def _frame_names(transformer: Any, cells: list[Cell]) -> list[str] | None:
    """Names of the columns, where a later step may ask for them (set_output to pandas)."""
    try:
        names = list(transformer.get_feature_names_out())
    except (AttributeError, ValueError):
        return None
    return names if len(names) == len(cells) else None


# ── functions ─────────────────────────────────────────────────────────────────────────────────────


@compiles(ArrayFeatures)
def _array_features(features: ArrayFeatures, table: Table, builder: Builder) -> Table:
    names = list(features.feature_names_in_)
    text = {name for name, cell in zip(names, table.cells, strict=True) if cell.text}
    traced = trace(features.function, names, text)
    if traced.names != features.features_:
        raise CompileRefused("the feature function returns other features than in training")
    cells = dict(zip(names, table.cells, strict=True))
    return _formula(traced, [cells[name] for name in traced.inputs], builder, features.features_)


@compiles(FunctionTransformer)
def _function_transformer(transformer: Any, table: Table, builder: Builder) -> Table:
    if transformer.func is None:
        return table
    if any(cell.text for cell in table.cells):
        raise CompileRefused("FunctionTransformer gets a text column")
    arguments = transformer.kw_args or {}
    traced = trace_elementwise(lambda x: transformer.func(x, **arguments))
    cells: list[Cell] = []
    for cell in table.cells:
        cells += _formula(traced, [cell] if traced.inputs else [], builder, ["x"]).cells
    return Table(cells, table.names)


@compiles(NumberColumns)
def _number_columns(_transformer: Any, table: Table, _builder: Builder) -> Table:
    return table  # the service's columns are such numbers already


def _formula(traced: Traced, cells: list[Cell], builder: Builder, names: list[str]) -> Table:
    if not cells:
        raise CompileRefused("the feature function uses no column")
    block = builder.add(
        "formula",
        [cell.ref for cell in cells],
        {"steps": traced.steps, "outputs": traced.outputs},
        constants=traced.constants,
    )
    return builder.result(block, len(traced.outputs), names)


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


@compiles(StandardScaler)
def _standard_scaler(scaler: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(table, scaler, missing=True)
    if scaler.with_mean:
        table = builder.table("subtract", table, scaler, values=scaler.mean_)
    if scaler.with_std:
        table = builder.table("divide", table, scaler, values=scaler.scale_)
    return table


@compiles(MinMaxScaler)
def _min_max_scaler(scaler: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(table, scaler, missing=True)
    table = builder.table("multiply", table, scaler, values=scaler.scale_)
    table = builder.table("add", table, scaler, values=scaler.min_)
    if scaler.clip:
        low, high = (np.full(len(table.cells), float(v)) for v in scaler.feature_range)
        table = builder.table("maximum", table, scaler, values=low)
        table = builder.table("minimum", table, scaler, values=high)
    return table


@compiles(MaxAbsScaler)
def _max_abs_scaler(scaler: Any, table: Table, builder: Builder) -> Table:
    if getattr(scaler, "clip", False):
        raise CompileRefused("MaxAbsScaler clips")
    table = builder.require(table, scaler, missing=True)
    return builder.table("divide", table, scaler, values=scaler.scale_)


@compiles(SimpleImputer)
def _simple_imputer(imputer: Any, table: Table, builder: Builder) -> Table:
    if any(cell.text for cell in table.cells):
        return _text_imputer(imputer, table, builder)
    missing = _missing_marker(imputer)
    values = imputer.statistics_.astype(np.float64)
    if missing is None:
        table = builder.require(table, imputer, missing=True)
    indicated = table
    # a column without any value in training is left out, unless it is to be kept
    kept = np.flatnonzero(~np.isnan(values)) if missing is None else np.arange(len(values))
    if not len(kept):
        raise CompileRefused("SimpleImputer leaves no column")
    table = table.take(kept.tolist())
    block = builder.add(
        "fill", [builder.block(table, imputer)], {"missing": missing}, values=values[kept]
    )
    filled = builder.result(block, len(kept), table.names)
    if not imputer.add_indicator:
        return filled
    flags = imputer.indicator_.features_.tolist()
    if not flags:
        return filled
    source = builder.block(indicated.take(flags), imputer)
    block = builder.add("is_missing", [source], {"missing": missing})
    return Table(filled.cells + builder.result(block, len(flags)).cells)


def _missing_marker(imputer: Any) -> float | None:
    marker = imputer.missing_values
    if marker is None or (isinstance(marker, float) and np.isnan(marker)):
        return None
    if isinstance(marker, int | float) and not isinstance(marker, bool):
        return float(marker)
    raise CompileRefused(f"SimpleImputer takes {marker!r} for missing")


def _text_imputer(imputer: Any, table: Table, builder: Builder) -> Table:
    if not all(cell.text for cell in table.cells):
        raise CompileRefused("SimpleImputer gets text and numbers together")
    if imputer.add_indicator or _missing_marker(imputer) is not None:
        raise CompileRefused("SimpleImputer of text has an indicator or a marker of its own")
    cells = []
    for cell, value in zip(table.cells, imputer.statistics_, strict=True):
        if not isinstance(value, str):
            raise CompileRefused("SimpleImputer fills text with something else")
        cells.append(Cell(builder.add("text_fill", [cell.ref], {"value": value}), text=True))
    return Table(cells, table.names)


# ── categories ────────────────────────────────────────────────────────────────────────────────────


@compiles(OrdinalEncoder)
def _ordinal_encoder(encoder: Any, table: Table, builder: Builder) -> Table:
    default = None if encoder.handle_unknown == "error" else float(encoder.unknown_value)
    cells = []
    for i, cell in enumerate(table.cells):
        categories = encoder.categories_[i]
        present = bool(len(categories)) and is_missing(categories[-1])
        codes = np.arange(len(categories), dtype=np.float64)
        mapping = _infrequent(encoder, i)
        if mapping is not None:  # does not count the missing value
            codes[: len(mapping)] = mapping
        if present:
            codes[-1] = encoder.encoded_missing_value
        cells.append(_lookup(cell, categories, codes, default, _label(table, i), builder))
    return Table(cells, table.names)


@compiles(OneHotEncoder)
def _one_hot_encoder(encoder: Any, table: Table, builder: Builder) -> Table:
    cells: list[Cell] = []
    for i, cell in enumerate(table.cells):
        categories = encoder.categories_[i]
        codes, width = np.arange(len(categories), dtype=np.float64), len(categories)
        default = None if encoder.handle_unknown == "error" else -1.0
        mapping = _infrequent(encoder, i)
        if mapping is not None:
            codes, width = mapping.astype(np.float64), int(mapping.max()) + 1
            if encoder.handle_unknown in ("infrequent_if_exist", "warn"):
                default = width - 1.0  # rare categories come last
        dropped = None if encoder.drop_idx_ is None else encoder.drop_idx_[i]
        if dropped is not None:
            if mapping is not None:
                raise CompileRefused("OneHotEncoder both drops a category and joins rare ones")
            codes, width = np.where(codes == dropped, -1.0, codes - (codes > dropped)), width - 1
        if width == 0:
            continue
        index = _lookup(cell, categories, codes, default, _label(table, i), builder)
        block = builder.add("one_hot", [index.ref], {"width": width})
        cells += builder.result(block, width).cells
    return Table(cells)


def _infrequent(encoder: Any, i: int) -> NDArray[Any] | None:
    """Where each category goes when rare ones are joined."""
    if not getattr(encoder, "_infrequent_enabled", False):
        return None
    mapping: NDArray[Any] | None = encoder._default_to_infrequent_mappings[i]
    return mapping


def _lookup(
    cell: Cell,
    categories: NDArray[Any],
    codes: NDArray[np.float64],
    default: float | None,
    label: str,
    builder: Builder,
) -> Cell:
    others = np.array([] if default is None else [default])
    if cell.text:
        keys = [None if is_missing(c) else c for c in categories.tolist()]
        if not all(isinstance(k, str | None) for k in keys) or len(set(keys)) < len(keys):
            raise CompileRefused("an encoder's categories mix text and other values")
        args = {"column": label, "categories": keys}
        return Cell(builder.add("lookup", [cell.ref], args, codes=codes, default=others))
    if not all(isinstance(c, bool | int | float) for c in categories.tolist()):
        raise CompileRefused("an encoder's categories are no numbers, but its column is")
    numbers, missing = categories.astype(np.float64), others
    if len(numbers) and np.isnan(numbers[-1]):
        missing, numbers, codes = codes[-1:], numbers[:-1], codes[:-1]
    order = np.argsort(numbers)
    return Cell(
        builder.add(
            "lookup",
            [cell.ref],
            {"column": label},
            codes=codes[order],
            categories=numbers[order],
            default=others,
            missing=missing,
        )
    )


def _label(table: Table, i: int) -> str:
    return table.names[i] if table.names else str(i)
