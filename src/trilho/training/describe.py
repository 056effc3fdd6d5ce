"""The documents of a bundle that describe its data: signature, golden rows, reference sketches."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from trilho.bundle import Column, Golden, Signature
from trilho.dataset import Dataset
from trilho.errors import DataError
from trilho.features import numbers
from trilho.training.columns import Columns, join, take, to_rows
from trilho.training.proof import edge_rows
from trilho.training.scoring import Form

MAX_CATEGORIES = 100  # more are not listed: such a column is a name or free text
QUANTILES = 200
MAX_SHARES = 50
TYPICAL_ROWS = 8
EDGE_ROWS = 12


class Sketch(Struct, frozen=True, kw_only=True):
    """The distribution of one column in the training rows."""

    kind: str
    missing: float  # share of rows
    quantiles: list[float] = []  # at equal steps from minimum to maximum; numbers and dates (days)
    shares: dict[str, float] = {}  # of the most frequent values; text and booleans
    other: float = 0.0  # share of all further values


class Reference(Struct, frozen=True, kw_only=True):
    """What drift is measured against, without the training data."""

    rows: int
    columns: dict[str, Sketch]
    score_rows: int
    # of the hold-out; multiclass: of the largest probability
    scores: list[float]


def signature(
    dataset: Dataset,
    training: pd.DataFrame,
    threshold: float | None,
    sensitive: Collection[str] = (),
) -> Signature:
    """Describe what the model takes and gives, from the training rows."""
    known = [*([dataset.id] if dataset.id else []), *dataset.kinds]
    return Signature(
        columns=[_column(name, kind, training[name]) for name, kind in dataset.kinds.items()],
        target=dataset.target,
        task=dataset.task,
        classes=dataset.classes,
        positive=dataset.positive,
        threshold=threshold if dataset.task == "binary" else None,
        id=dataset.id,
        sensitive=[name for name in known if name in sensitive] or UNSET,
    )


def _column(name: str, kind: str, values: pd.Series[Any]) -> Column:
    required = not bool(values.isna().any())
    if kind == "string":
        known: list[str | int | float | bool] = [*sorted(map(str, values.dropna().unique()))]
        categories = known if len(known) <= MAX_CATEGORIES else None
        return Column(name=name, kind=kind, required=required, categories=categories)
    if kind == "boolean":
        return Column(name=name, kind=kind, required=required)
    array = numbers(values)
    low, high = (None, None) if np.isnan(array).all() else (np.nanmin(array), np.nanmax(array))
    return Column(
        name=name,
        kind=kind,
        required=required,
        minimum=None if low is None else float(low),
        maximum=None if high is None else float(high),
    )


def golden(
    form: Form, holdout: Columns, scores: NDArray[np.float64], signature: Signature
) -> Golden:
    """Choose rows that a service must score as the training machine did.

    Rows spread over the range of scores, and edge rows of the kind that a service accepts; the
    expected scores come from the serving form.
    """
    ranked = np.argsort(scores if scores.ndim == 1 else scores.max(axis=1), kind="stable")
    typical = ranked[np.linspace(0, len(ranked) - 1, min(TYPICAL_ROWS, len(ranked))).astype(int)]
    chosen = take(holdout, typical)
    limit = 1e3 * max(1.0, float(np.abs(scores).max()))
    edge = [row for row in _edge(holdout, signature) if _sound(form, row, limit)]
    step = max(1, len(edge) // EDGE_ROWS)
    rows = join([chosen, *edge[::step][:EDGE_ROWS]])
    expected = form.predict(rows)
    return Golden(
        tolerance=1e-9 * max(1.0, float(np.abs(expected).max())),
        rows=to_rows(rows, signature),
        expected=expected.tolist(),
    )


def _edge(holdout: Columns, signature: Signature) -> list[Columns]:
    rows = edge_rows(holdout, signature)
    count = len(next(iter(rows.values())))
    found: list[Columns] = []
    for i in range(count):
        row = take(rows, slice(i, i + 1))
        if all(_fits(row[c.name][0], c) for c in signature.columns):
            found.append(row)
    return found


def _fits(value: Any, column: Column) -> bool:
    """Whether a service takes this value: nothing missing that is required, whole integers."""
    if value is None or value != value:
        return not column.required
    if column.kind == "integer":
        return float(value).is_integer() and abs(value) < 2**53
    return not (column.kind == "string" and not value.isprintable())


def _sound(form: Form, row: Columns, limit: float) -> bool:
    try:
        with np.errstate(all="ignore"):
            scores = form.predict(row)
    except (ValueError, DataError):
        return False
    return bool(np.isfinite(scores).all() and np.abs(scores).max() <= limit)


def sketches(training: pd.DataFrame, kinds: dict[str, str]) -> dict[str, Sketch]:
    """Sketch each feature of the training rows."""
    return {name: _sketch(training[name], kind) for name, kind in kinds.items()}


def reference(rows: int, columns: dict[str, Sketch], scores: NDArray[np.float64]) -> Reference:
    """Put together the sketches of the training rows and that of the hold-out's scores."""
    return Reference(
        rows=rows,
        columns=columns,
        score_rows=len(scores),
        scores=_quantiles(scores if scores.ndim == 1 else scores.max(axis=1)),
    )


def _sketch(values: pd.Series[Any], kind: str) -> Sketch:
    missing = float(values.isna().mean())
    if kind in ("string", "boolean"):
        counts = values.astype("string").value_counts(sort=False)
        ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
        total = max(1, int(counts.sum()))
        top = {str(v): n / total for v, n in ordered[:MAX_SHARES]}
        other = sum(int(n) for _, n in ordered[MAX_SHARES:]) / total
        return Sketch(kind=kind, missing=missing, shares=top, other=other)
    array = numbers(values)
    return Sketch(kind=kind, missing=missing, quantiles=_quantiles(array[~np.isnan(array)]))


def _quantiles(values: NDArray[np.float64]) -> list[float]:
    """200 order statistics at equal steps, rounded to 6 digits: a sketch, not the data."""
    if not len(values):
        return []
    ranks = np.ceil(np.linspace(0, 1, QUANTILES) * len(values)).astype(np.intp) - 1
    found = np.sort(values)[np.maximum(ranks, 0)]  # faster than 200 partitions of np.quantile
    return [float(f"{v:.6g}") for v in found.tolist()]
