"""Values out of the formats that files come in: the texts of a CSV, the arrays of Parquet."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from collections.abc import Sequence
from typing import Any

from trilho.bundle import Column
from trilho.serving.columns import Batch, Columns
from trilho.serving.decode import check_rows
from trilho.serving.messages import BadInputError, TooLargeError

# The texts that mean "missing" in a CSV, and the two booleans: as in the reading of datasets.
MISSING = {
    *("", "NA", "N/A", "n/a", "#N/A", "nan", "NaN"),
    *("null", "NULL", "None", "<NA>", "NaT"),
}
BOOLEANS = dict.fromkeys(["true", "True", "TRUE"], True) | dict.fromkeys(
    ["false", "False", "FALSE"], False
)


def read_csv(body: bytes, columns: Columns, max_rows: int, *, header: bool) -> Batch:
    """Return the rows of a CSV; without a header they have the signature's columns, in order.

    Raises
    ------
    BadInputError
        With the row (from 0, the header not counted) and the field where there is one.
    TooLargeError
        More rows than are taken at once.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInputError("the body is not valid UTF-8", kind="body") from None
    records = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    names = None if header else columns.given
    try:
        for record in records:
            if not record:  # a blank line
                continue
            if names is None:
                names = record
                continue
            if len(record) != len(names):
                raise BadInputError(f"expected {len(names)} values", len(rows))
            rows.append(record)
            if len(rows) > max_rows:
                raise TooLargeError(f"the body holds more than {max_rows} rows")
    except csv.Error:
        raise BadInputError("the body is not valid CSV", len(rows), kind="body") from None
    check_rows(len(rows), max_rows)
    assert names is not None
    if len(set(names)) != len(names):
        raise BadInputError("a column is named twice", kind="body")
    return from_texts(transposed(names, rows), columns, len(rows))


def transposed(names: list[str], rows: list[list[str]]) -> dict[str, Sequence[str]]:
    """Turn a CSV's rows into its columns.

    Raises
    ------
    BadInputError
        A row has more values or fewer than there are names.
    """
    if set(map(len, rows)) != {len(names)}:
        row = next(i for i, record in enumerate(rows) if len(record) != len(names))
        raise BadInputError(f"expected {len(names)} values", row)
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def from_texts(texts: dict[str, Sequence[str]], columns: Columns, rows: int) -> Batch:
    """Return the rows of a CSV's columns.

    Raises
    ------
    BadInputError
        With the row (from 0) and the field.
    """
    values: dict[str, Sequence[Any]] = {
        column.name: _parsed(column, texts[column.name])
        for column in columns.all
        if column.name in texts
    }
    if columns.id in texts:
        values[columns.id] = [None if text in MISSING else text for text in texts[columns.id]]
    return columns.from_lists(values, rows)


def _parsed(column: Column, texts: Sequence[str]) -> list[Any]:
    """Return the values that the texts stand for, None for missing."""
    if column.kind == "boolean":
        return [
            None if text in MISSING else _boolean(text, row, column.name)
            for row, text in enumerate(texts)
        ]
    if column.kind in ("number", "integer"):
        try:
            return [None if text in MISSING else _number(text) for text in texts]
        except ValueError:
            row = next(i for i, text in enumerate(texts) if not _is_number(text))
            raise BadInputError("expected number", row, column.name) from None
    return [None if text in MISSING else text for text in texts]


def _boolean(text: str, row: int, field: str) -> bool:
    if text not in BOOLEANS:
        raise BadInputError("expected true or false", row, field)
    return BOOLEANS[text]


def _number(text: str) -> float:
    number = float(text)
    if "_" in text or math.isnan(number):  # which Python takes for numbers
        raise ValueError
    return number


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return text in MISSING
    return True


def parquet_is_possible() -> bool:
    return importlib.util.find_spec("pyarrow") is not None


def plain(array: Any) -> list[Any]:
    """Return an Arrow array as Python's values, dates as texts, None for what is missing."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        words = array.dictionary.to_pylist()
        return [None if i is None else words[i] for i in array.indices.to_pylist()]
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        if pa.types.is_timestamp(array.type):
            array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
        return [None if moment is None else moment.isoformat() for moment in array.to_pylist()]
    values: list[Any] = array.to_pylist()
    if pa.types.is_floating(array.type):
        return [None if value is None or value != value else value for value in values]
    return values
