"""The figures of a column, as a plain record: cheap to import."""

from __future__ import annotations

from msgspec import Struct


class Top(Struct, frozen=True, kw_only=True):
    """One of the most frequent values."""

    value: str
    count: int


class ColumnSummary(Struct, frozen=True, kw_only=True):
    """One column; figures are over its values that are not missing."""

    name: str
    dtype: str
    kind: str  # number | integer | boolean | string | date
    missing: int
    unique: int
    min: float | str | None = None  # an ISO date for a date column
    max: float | str | None = None
    mean: float | None = None
    sd: float | None = None
    top: list[Top] = []
