"""A row that fits a signature: made from its ranges and categories, never a row of the data."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from trilho.bundle import Column
from trilho.serving.predictor import Label


def example(columns: list[Column]) -> dict[str, Label]:
    return {column.name: _example(column) for column in columns}


def _example(column: Column) -> Label:
    low, high = column.minimum, column.maximum
    middle = 0.0 if low is None or high is None else low / 2 + high / 2
    match column.kind:
        case "boolean":
            return True
        case "integer":
            return round(middle)
        case "number":
            return float(f"{middle:.6g}")
        case "date":
            return date_of(middle)
    return column.categories[0] if column.categories else "text"


def date_of(days: float) -> str:
    """Return the ISO date so many days after 1970-01-01."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)).date().isoformat()


def csv_field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search('[",\r\n]', text) else text
