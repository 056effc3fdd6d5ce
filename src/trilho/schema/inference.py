"""A first schema, drafted from the data: what surely holds, not what happens to."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import yaml  # type: ignore[import-untyped]

from trilho.dataset import ColumnSummary, summarise

MOST_CATEGORIES = 20
MOST_CODES = 5  # whole numbers with more distinct values are counts rather than codes
COMMON = 20  # rows per code, at least


def infer(frame: pd.DataFrame, target: str, *, unique: str | None = None) -> str:
    """Return a schema in pandera's YAML form that the frame holds.

    A set of allowed values is written when no value of it is rare: the share of rows with a value
    never seen before is about that of values seen once (Good 1953), so a set without such values
    is likely complete. Bounds are an order of magnitude beyond the data; zero stays the lower bound
    of what is never negative. Only columns with missing values may have them.

    Parameters
    ----------
    frame
        As `read_table` types it.
    target
        The column to predict; its classes become the set of allowed values.
    unique
        The column that names a row, if there is one.
    """
    lines = [
        "# Drafted by `trilho init` from the data. Read it through, tighten what you know better.",
        "# The form is pandera's: https://pandera.readthedocs.io/en/stable/schema_inference.html",
        "schema_type: dataframe",
        "api: pandas",
        "strict: true # refuse columns that are not named here",
        "columns:",
    ]
    for column in summarise(frame):
        lines += [f"  {quote(column.name)}:"]
        keys = _keys(column, frame[column.name], column.name == target)
        if column.name == unique:
            keys["unique"] = "true"
        lines += [f"    {key}: {value}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def quote(value: Any) -> str:
    """Return a scalar as YAML reads it back, in the versions 1.1 (pandera) and 1.2 (Trilho)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    dumped: str = yaml.safe_dump(str(value), default_style='"', allow_unicode=True, width=10**9)
    plain = str(value).isidentifier() and str(value).isascii()
    # a bare word is text unless it is one of the words that mean something
    if plain and yaml.safe_load(str(value)) == value and str(value).lower() not in ("y", "n"):
        return str(value)
    return dumped.rstrip("\n")


def _keys(column: ColumnSummary, values: pd.Series, is_target: bool) -> dict[str, str]:
    keys = {}
    rows = len(values) - column.missing
    if rows == 0:
        return {"nullable": "true # no value is known"}
    match column.kind:
        case "integer":
            keys["dtype"] = column.dtype
            keys |= _allowed(values, MOST_CODES, COMMON, is_target) or _bounds(column, rows)
        case "number":
            keys["dtype"] = column.dtype
            keys["coerce"] = "true # 1 will do for 1.0"
            classes = is_target and column.unique == 2
            keys |= _allowed(values, 2, 1, True) if classes else _bounds(column, rows)
        case "boolean":
            keys["dtype"] = column.dtype
            if column.missing:
                keys["coerce"] = "true # a file without missing values will do"
        case "date":
            keys["dtype"] = quote(column.dtype) if "," in column.dtype else column.dtype
        case _:
            keys["dtype"] = "str"
            keys |= _allowed(values, MOST_CATEGORIES, 2, is_target)
    if column.missing:
        keys["nullable"] = "true"
    return keys


def _allowed(values: pd.Series, most: int, common: int, classes: bool) -> dict[str, str]:
    """Return the set of allowed values, if the data shows it whole."""
    counts = values.value_counts()
    if len(counts) > MOST_CATEGORIES or not (
        classes or (1 < len(counts) <= most and counts.min() >= common)
    ):
        return {}
    return {"isin": "[" + ", ".join(quote(v) for v in sorted(counts.index.tolist())) + "]"}


def _bounds(column: ColumnSummary, rows: int) -> dict[str, str]:
    if column.unique < 2 or not isinstance(column.min, float) or not isinstance(column.max, float):
        return {}
    size = max(abs(column.min), abs(column.max))
    if size > 1e300 or (column.kind == "integer" and column.unique == rows):
        # a counter or an id grows without bound
        return {"ge": "0"} if column.min >= 0 else {}
    high = 10.0 ** (math.floor(math.log10(size)) + 2)  # the next power of ten, times ten
    low = 0.0 if column.min >= 0 else -high
    return {"in_range": f"{{min_value: {_number(low)}, max_value: {_number(high)}}}"}


def _number(value: float) -> str:
    """Write a float so that YAML reads a number: an exponent needs a point and a sign."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e16 else f"{value:.1e}"
