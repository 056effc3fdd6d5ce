"""Rules for scalers and thresholds: one number or two for each column."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import (
    Binarizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)

from trilho.training.builder import FINITE, Builder, Table
from trilho.training.compile import CompileRefused, compiles, name_of


@compiles(StandardScaler)
def _standard_scaler(scaler: Any, table: Table, builder: Builder) -> Table:
    center = scaler.mean_ if scaler.with_mean else None
    return _scaled(scaler, table, center, scaler.scale_ if scaler.with_std else None, builder)


@compiles(RobustScaler)
def _robust_scaler(scaler: Any, table: Table, builder: Builder) -> Table:
    center = scaler.center_ if scaler.with_centering else None
    return _scaled(scaler, table, center, scaler.scale_ if scaler.with_scaling else None, builder)


@compiles(MaxAbsScaler)
def _max_abs_scaler(scaler: Any, table: Table, builder: Builder) -> Table:
    sparse = table.sparse
    scaled = _scaled(scaler, table, None, scaler.scale_, builder)
    if scaler.clip:
        scaled = _clipped(scaler, scaled, -1.0, 1.0, builder)._replace(sparse=sparse)
    return scaled


@compiles(MinMaxScaler)
def _min_max_scaler(scaler: Any, table: Table, builder: Builder) -> Table:
    refuse_sparse(scaler, table)
    table = builder.require(table, scaler, missing=True)
    table = builder.table("multiply", table, scaler, values=scaler.scale_)
    table = builder.table("add", table, scaler, values=scaler.min_)
    low, high = scaler.feature_range
    return _clipped(scaler, table, low, high, builder) if scaler.clip else table


def _scaled(scaler: Any, table: Table, center: Any, scale: Any, builder: Builder) -> Table:
    """Centered and divided; the values of a sparse matrix are multiplied instead."""
    sparse, label = table.sparse, table.names
    table = builder.require(table, scaler, missing=True)
    if sparse:
        if center is not None:
            raise CompileRefused(f"{name_of(scaler)} centers a sparse matrix")
        if scale is not None:
            table = builder.table("multiply", table, scaler, values=1.0 / scale)
    elif center is not None and scale is not None:
        table = builder.table("scale", table, scaler, center=center, scale=scale)
    elif center is not None:
        table = builder.table("subtract", table, scaler, values=center)
    elif scale is not None:
        table = builder.table("divide", table, scaler, values=scale)
    return table._replace(sparse=sparse, names=label)


def _clipped(scaler: Any, table: Table, low: float, high: float, builder: Builder) -> Table:
    width = len(table.cells)
    table = builder.table("maximum", table, scaler, values=np.full(width, float(low)))
    return builder.table("minimum", table, scaler, values=np.full(width, float(high)))


@compiles(Normalizer)
def _normalizer(normalizer: Any, table: Table, builder: Builder) -> Table:
    refuse_sparse(normalizer, table)
    table = builder.require(table, normalizer, missing=False)
    block = builder.add(f"norm_{normalizer.norm}", [builder.block(table, normalizer)])
    return builder.result(block, len(table.cells), table.names)


@compiles(Binarizer)
def _binarizer(binarizer: Any, table: Table, builder: Builder) -> Table:
    if any(cell.kind in ("single", "truth") for cell in table.cells):
        raise CompileRefused("Binarizer compares in the type of its column")
    sparse = table.sparse
    table = builder.require(table, binarizer, missing=False)
    thresholds = np.full(len(table.cells), float(binarizer.threshold))
    block = builder.add("above", [builder.block(table, binarizer)], values=thresholds)
    result = builder.result(block, len(table.cells), table.names, known=FINITE)
    return result._replace(sparse=sparse)


def refuse_sparse(owner: Any, table: Table) -> None:
    """For what computes otherwise with sparse matrices."""
    if table.sparse:
        raise CompileRefused(f"{name_of(owner)} gets a sparse matrix")
