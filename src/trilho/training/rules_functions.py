"""Rules for functions: feature functions over arrays, and numpy's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.preprocessing import FunctionTransformer

from trilho.features import ArrayFeatures, NumberColumns
from trilho.training.builder import Builder, Cell, Table, matrix
from trilho.training.compile import CompileRefused, compiles
from trilho.training.trace import Traced, trace, trace_elementwise


@compiles(ArrayFeatures)
def _array_features(features: ArrayFeatures, table: Table, builder: Builder) -> Table:
    names = list(features.feature_names_in_)
    if len(set(names)) < len(names):
        raise CompileRefused("two columns of the feature function have one name")
    text = {name for name, cell in zip(names, table.cells, strict=True) if cell.text}
    traced = trace(features.function, names, text)
    if traced.names != features.features_:
        raise CompileRefused("the feature function returns other features than in training")
    cells = dict(zip(names, table.cells, strict=True))
    return _formula(traced, [cells[name] for name in traced.inputs], builder, features.features_)


@compiles(FunctionTransformer)
def _function_transformer(transformer: Any, table: Table, builder: Builder) -> Table:
    if transformer.validate:
        table = _validated(transformer, table, builder)
    if transformer.func is None:
        return table
    if any(cell.kind in ("text", "date") for cell in table.cells):
        raise CompileRefused("FunctionTransformer gets a text or date column")
    if table.mixed or table.sparse:
        what = "a sparse matrix" if table.sparse else "numbers that stood beside text"
        raise CompileRefused(f"FunctionTransformer gets {what}")
    if any(cell.kind == "single" for cell in table.cells):
        raise CompileRefused("FunctionTransformer computes in single precision")
    arguments = transformer.kw_args or {}

    def function(x: Any) -> Any:
        return transformer.func(x, **arguments)

    traces = {kind: _traced(function, kind) for kind in {cell.kind for cell in table.cells}}
    cells: list[Cell] = []
    for cell in table.cells:
        traced = traces[cell.kind]
        part = _formula(traced, [cell] if traced.inputs else [], builder, ["x"])
        cells += [Cell(part.cells[0].ref, traced.kinds[0])]
    return Table(cells, table.names)


def _traced(function: Callable[[Any], Any], kind: str) -> Traced:
    """Trace over a column of this kind; a service passes all of them as float64."""
    traced = trace_elementwise(function, kind)
    if kind == "truth":
        floats = trace_elementwise(function)
        if (traced.steps, traced.outputs) != (floats.steps, floats.outputs):
            raise CompileRefused(
                "FunctionTransformer computes otherwise with truth values than with 0 and 1; use "
                ".astype(float) before"
            )
    return traced


def _validated(transformer: Any, table: Table, builder: Builder) -> Table:
    """What `validate=True` does: numbers only, none missing, all of one type."""
    if table.sparse and not transformer.accept_sparse:
        raise CompileRefused("FunctionTransformer refuses sparse matrices")
    table = builder.require(table, transformer, missing=False, single=True)
    return matrix(table.cells, sparse=table.sparse)._replace(names=table.names)


@compiles(NumberColumns)
def _number_columns(_transformer: Any, table: Table, _builder: Builder) -> Table:
    # the service's columns are such numbers already
    if any(cell.text for cell in table.cells):
        raise CompileRefused("NumberColumns gets a text column")
    return table._replace(cells=[Cell(cell.ref) for cell in table.cells], mixed=False)


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
