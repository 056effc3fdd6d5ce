"""Rules for what chooses columns, or projects them on fewer."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import (
    RFE,
    RFECV,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
)
from sklearn.utils import get_tags

from trilho.compiled.plan import Ref
from trilho.training.builder import Builder, Table, gives_frame, matrix
from trilho.training.compile import CompileRefused, compiles, lower, name_of, scores


@compiles(
    SelectKBest,
    SelectPercentile,
    SelectFpr,
    SelectFdr,
    SelectFwe,
    GenericUnivariateSelect,
    SelectFromModel,
    SequentialFeatureSelector,
    VarianceThreshold,
)
def _selector(selector: Any, table: Table, builder: Builder) -> Table:
    chosen = selector.get_support(indices=True).tolist()
    if not chosen:
        raise CompileRefused(f"{name_of(selector)} chooses no column")
    if table.frame and gives_frame(selector):  # it is passed on without a look at its values
        return table.take(chosen)
    table = matrix(table.cells, sparse=table.sparse)._replace(names=table.names)
    if not get_tags(selector).input_tags.allow_nan:  # else infinities pass, too
        table = builder.require(table, selector, missing=False, single=True)
    return table.take(chosen)


@scores(RFE, RFECV)
def _elimination(selector: Any, table: Table, builder: Builder, method: str) -> Table:
    chosen = _selector(selector, table, builder)
    return chosen if method == "transform" else lower(selector.estimator_, chosen, builder, method)


@compiles(PCA, IncrementalPCA)
def _pca(pca: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(table, pca, missing=False, single=True)
    components = _components(pca)
    shift = np.reshape(pca.mean_, (1, -1)) @ components.T
    block = _projected(pca, table, -shift.ravel(), builder)
    width = len(components)
    if pca.whiten:
        scale = np.sqrt(pca.explained_variance_)
        scale = np.maximum(scale, np.finfo(np.float64).eps)
        block = builder.add("divide", [block], values=scale)
    return builder.result(block, width)


@compiles(TruncatedSVD)
def _svd(svd: Any, table: Table, builder: Builder) -> Table:
    table = builder.require(table, svd, missing=False, single=True)
    components = _components(svd)
    block = _projected(svd, table, np.zeros(len(components)), builder)
    return builder.result(block, len(components))


def _components(owner: Any) -> Any:
    if owner.components_.dtype != np.float64:
        raise CompileRefused(f"{name_of(owner)} computes in single precision")
    return owner.components_


def _projected(owner: Any, table: Table, shift: Any, builder: Builder) -> Ref:
    source = builder.block(table, owner, single=True)
    return builder.add("linear", [source], weights=owner.components_.T, intercept=shift)
