"""Rules for what bends or cuts each column: powers, quantiles, bins, polynomials, splines."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.preprocessing import (
    KBinsDiscretizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
)

from trilho.training.builder import FINITE, Builder, Cell, Table
from trilho.training.compile import CompileRefused, compiles, lower
from trilho.training.rules_scalers import refuse_sparse


@compiles(PowerTransformer)
def _power(transformer: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(table, transformer, missing=True)
    if transformer.method == "box-cox":
        block = builder.add("require_positive", [builder.block(table, transformer)])
        table = builder.result(block, len(table.cells), table.names)
    op = transformer.method.replace("-", "_")
    table = builder.table(op, table, transformer, lambdas=transformer.lambdas_)
    if not transformer.standardize:
        return table
    if type(transformer._scaler) is not StandardScaler:
        raise CompileRefused("PowerTransformer has a scaler of its own")
    return lower(transformer._scaler, table, builder)


@compiles(QuantileTransformer)
def _quantile(transformer: Any, table: Table, builder: Builder) -> Table:
    refuse_sparse(transformer, table)
    table = builder.require(table, transformer, missing=True)
    block = builder.add(
        "quantiles",
        [builder.block(table, transformer)],
        {"normal": transformer.output_distribution == "normal"},
        quantiles=np.asarray(transformer.quantiles_, np.float64).T,
        references=transformer.references_,
    )
    return builder.result(block, len(table.cells), table.names)


@compiles(KBinsDiscretizer)
def _bins(discretizer: Any, table: Table, builder: Builder) -> Table:
    if discretizer.dtype not in (None, np.float64):
        raise CompileRefused(f"KBinsDiscretizer computes with {discretizer.dtype}")
    refuse_sparse(discretizer, table)
    table = builder.require(table, discretizer, missing=False)
    width = len(table.cells)
    edges = [np.asarray(e, np.float64)[1:-1] for e in discretizer.bin_edges_]
    block = builder.add(
        "bins",
        [builder.block(table, discretizer)],
        edges=np.concatenate(edges),
        edges_sizes=np.array([len(e) for e in edges]),
    )
    places = builder.result(block, width, table.names, known=FINITE)
    if discretizer.encode == "ordinal":
        return places
    cells: list[Cell] = []
    for cell, count in zip(places.cells, discretizer.n_bins_.tolist(), strict=True):
        hot = builder.add("one_hot", [cell.ref], {"width": int(count)})
        cells += builder.result(hot, int(count), known=FINITE).cells
    return Table(cells, sparse=discretizer.encode == "onehot")


@compiles(PolynomialFeatures)
def _polynomial(features: Any, table: Table, builder: Builder) -> Table:
    refuse_sparse(features, table)
    table = builder.require(table, features, missing=False)
    width, bias = len(table.cells), int(features.include_bias)
    # as scikit-learn multiplies: column by column, each with products of one degree less
    starts = list(range(1, width + 2))
    left: list[int] = []
    right: list[int] = []
    for _ in range(2, features._max_degree + 1):
        end = starts[-1]
        following: list[int] = []
        for column, (start, after) in enumerate(pairwise(starts)):
            following.append(1 + width + len(left))
            terms = range(after if features.interaction_only else start, end)
            if not terms:
                break
            left += terms
            right += [column] * len(terms)
        starts = [*following, 1 + width + len(left)]
    full = [0] * bias + list(range(1, 1 + width + len(left)))[: None if features._max_degree else 0]
    count = int(features.n_output_features_)
    outputs = [0] * bias + full[len(full) - count + bias :] if features._min_degree > 1 else full
    if len(outputs) != count:
        raise CompileRefused("PolynomialFeatures gives other columns than its rule expects")
    block = builder.add(
        "products",
        [builder.block(table, features)],
        left=np.array(left, np.int64),
        right=np.array(right, np.int64),
        outputs=np.array(outputs, np.int64),
    )
    return builder.result(block, count)


@compiles(SplineTransformer)
def _splines(transformer: Any, table: Table, builder: Builder) -> Table:
    refuse_sparse(transformer, table)
    if transformer.handle_missing != "zeros":  # else infinities pass, too
        table = builder.require(table, transformer, missing=False)
    if transformer.extrapolation == "constant" and transformer.degree == 0:
        raise CompileRefused("SplineTransformer of degree 0 fails beyond the last knot")
    if transformer.extrapolation == "linear" and transformer.degree <= 1 and len(table.cells) > 1:
        # scikit-learn raises the degree anew for each column, and looks for the ends by it
        raise CompileRefused("SplineTransformer extrapolates several lines")
    splines = transformer.bsplines_
    degree = int(transformer.degree)
    low, high = [s.t[degree] for s in splines], [s.t[-degree - 1] for s in splines]
    ends = np.array(
        [[s(a), s(b), s(a, nu=1), s(b, nu=1)] for s, a, b in zip(splines, low, high, strict=True)]
    )
    block = builder.add(
        "splines",
        [builder.block(table, transformer)],
        {
            "degree": degree,
            "extrapolation": transformer.extrapolation,
            "last": bool(transformer.include_bias),
        },
        knots=np.array([s.t for s in splines]),
        ends=ends,
    )
    width = int(transformer.n_features_out_)
    return builder.result(block, width)._replace(sparse=bool(transformer.sparse_output))
