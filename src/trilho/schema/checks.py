"""Checks of the dataset as a whole: rows, classes, repetition, gaps, age."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from trilho.config import Data
from trilho.dataset import ColumnSummary, Dataset
from trilho.errors import UsageError, nearest
from trilho.schema.findings import Finding, of_rows


def dataset_findings(
    dataset: Dataset, data: Data, columns: list[ColumnSummary], now: datetime | None = None
) -> Iterator[Finding]:
    """Yield what fails of `data.checks`; see `config.Checks` for each."""
    checks, frame = data.checks, dataset.frame
    rows = len(frame)
    if rows < checks.min_rows:
        yield Finding(None, "min_rows", f"{rows} rows, expected at least {checks.min_rows}")
    yield from _class_share(dataset, data)
    for key, name in [("data.id", data.id), *(("data.checks.unique", c) for c in checks.unique)]:
        if name is None:
            continue
        _present(dataset, key, name)
        if not frame[name].is_unique:
            repeated = np.flatnonzero(frame[name].duplicated().to_numpy())
            yield of_rows(name, "unique", "values repeat an earlier one", repeated, frame[name])
    for column in columns:
        if column.missing > checks.max_missing * rows:
            share = f"{column.missing / rows:.1%} of the values are missing"
            yield Finding(
                column.name, "max_missing", f"{share}, expected at most {checks.max_missing:.1%}"
            )
    yield from _freshness(dataset, data, now or datetime.now(UTC))


def _class_share(dataset: Dataset, data: Data) -> Iterator[Finding]:
    if dataset.classes is None:
        return
    low, high = data.checks.class_share
    shares = dataset.frame[dataset.target].value_counts(normalize=True)
    for label in dataset.classes:
        share = float(shares[label])
        if not low <= share <= high:
            message = (
                f"class {label!r} is {share:.2%} of the rows, expected {low:.2%} to {high:.2%}"
            )
            yield Finding(dataset.target, f"class_share of {label}", message)


def _freshness(dataset: Dataset, data: Data, now: datetime) -> Iterator[Finding]:
    freshness = data.checks.freshness
    if freshness is None:
        return
    _present(dataset, "data.checks.freshness.column", freshness.column)
    dates = dataset.frame[freshness.column]
    if not pd.api.types.is_datetime64_any_dtype(dates.dtype):
        raise UsageError(
            f"data.checks.freshness.column: '{freshness.column}' holds no dates ({dates.dtype}).",
            hint="Write dates as 2026-01-31 or 2026-01-31T12:00:00.",
        )
    newest = dates.max()
    if pd.isna(newest):
        yield Finding(freshness.column, "freshness", "no date is known")
        return
    moment = newest.tz_localize("UTC") if newest.tz is None else newest
    days = (pd.Timestamp(now) - moment).total_seconds() / 86400
    if days > freshness.max_age_days:
        message = (
            f"the newest date is {newest.isoformat()}, {days:.1f} days ago, "
            f"expected at most {freshness.max_age_days:g}"
        )
        row = np.array([int(dates.argmax())])
        yield of_rows(freshness.column, "freshness", message, row, dates)


def _present(dataset: Dataset, key: str, name: str) -> None:
    columns = [str(c) for c in dataset.frame.columns]
    if name not in columns:
        raise UsageError(f"{key}: {dataset.path} has no column '{name}'{nearest(name, columns)}")
