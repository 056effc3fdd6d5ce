"""From values to the model's columns: typed by the signature, strict about types.

All formats end here. Numbers, whole numbers and booleans are float64 with NaN for missing, dates
too as days since 1970-01-01 (UTC where they name no zone); texts are objects: `str` and None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trilho.bundle import Column, Signature
from trilho.serving.messages import BadInputError

Array = npt.NDArray[Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY = 86_400_000_000  # in microseconds
LARGEST_WHOLE = 2.0**53 - 1  # beyond it float64 cannot tell neighbours apart
NUMERIC = {"integer": 0, "number": 1, "boolean": 1}  # kind to its place in the order
WORDS = {
    "float": "number",
    "int": "number",
    "str": "string",
    "bool": "boolean",
    "NoneType": "null",
    "list": "list",
    "dict": "object",
}


class Batch(NamedTuple):
    """Some rows, as the model takes them.

    Attributes
    ----------
    columns
        Name to array, one entry for each column of the signature.
    rows
        How many, at least one.
    matrix
        The numeric columns once more, as rows in the order of `Columns.numeric`.
    ids
        What the caller named the rows by, if the signature has an id and the caller sent it.
    """

    columns: dict[str, Array]
    rows: int
    matrix: Array
    ids: list[Any] | None


class Columns:
    """The columns of one signature, in the order: numbers, dates, texts; whole numbers first."""

    def __init__(self, signature: Signature) -> None:
        order = NUMERIC | {"date": 2}
        self.all = sorted(signature.columns, key=lambda column: order.get(column.kind, 3))
        self.names = [column.name for column in self.all]
        self.given = [column.name for column in signature.columns]  # the signature's own order
        self.integers = sum(column.kind == "integer" for column in self.all)
        self.numbers = sum(column.kind in NUMERIC for column in self.all)
        self.dates = sum(column.kind == "date" for column in self.all)
        self.numeric = self.names[: self.numbers]
        # an id that is a column of the model, too, is not read twice
        self.id = signature.id if signature.id not in self.names else None

    def from_rows(self, values: list[tuple[Any, ...]]) -> Batch:
        """Take rows whose types are checked; the id, if the caller sent one, stands last."""
        n = self.numbers
        width = len(self.names)
        numeric = values if n == len(values[0]) else [v[:n] for v in values]
        matrix = _matrix(numeric).T
        if len(values) > 1:
            matrix = np.ascontiguousarray(matrix)
        if len(values) > 1 or not _whole(values[0][: self.integers]):
            self._check_whole(matrix[: self.integers])
        columns = dict(zip(self.names, matrix, strict=False))
        for i in range(n, n + self.dates):
            columns[self.names[i]] = _days([v[i] for v in values], self.names[i])
        for i in range(n + self.dates, width):
            columns[self.names[i]] = _objects([v[i] for v in values])
        ids = [v[width] for v in values] if len(values[0]) > width else None
        return Batch(columns, len(values), matrix, ids)

    def from_lists(self, given: Mapping[str, Sequence[Any]], rows: int) -> Batch:
        """Take columns of plain values, whose types are checked here; NaN counts as missing.

        Raises
        ------
        BadInputError
            Naming the first row and field that is not as the signature has it.
        """
        matrix = np.empty((self.numbers, rows))
        columns: dict[str, Array] = {}
        for i, column in enumerate(self.all):
            values = given.get(column.name)
            if values is None:
                if column.required:
                    raise missing(column.name)
                values = [None] * rows
            if len(values) != rows:
                raise BadInputError(f"expected {rows} values, as in the others", field=column.name)
            if i < self.numbers:
                matrix[i] = _numbers(column, values)
                columns[column.name] = matrix[i]
            else:
                _check_types(column, values, str)
                texts = list(values)
                date = i < self.numbers + self.dates
                columns[column.name] = _days(texts, column.name) if date else _objects(texts)
        self._check_whole(matrix[: self.integers])
        ids = given.get(self.id) if self.id is not None else None
        if ids is not None:
            if len(ids) != rows:
                raise BadInputError(f"expected {rows} values, as in the others", field=self.id)
            _check_types(Column(name=self.id or "", kind="id", required=False), ids, *ID_TYPES)
        return Batch(columns, rows, matrix, None if ids is None else list(ids))

    def _check_whole(self, matrix: Array) -> None:
        wrong = (np.abs(np.fmod(matrix, 1.0)) > 0) | (np.abs(matrix) > LARGEST_WHOLE)
        if wrong.any():  # NaN compares false
            column, row = np.argwhere(wrong)[0]
            raise BadInputError(
                "expected a whole number below 2^53", row=int(row), field=self.names[column]
            )


ID_TYPES = (str, int, float)


def _matrix(rows: list[tuple[Any, ...]]) -> Array:
    """Return rows of numbers as an array; None is NaN."""
    if len(rows) > 1:
        with suppress(TypeError):  # there is a None
            flat = np.fromiter(chain.from_iterable(rows), np.float64)
            return flat.reshape(len(rows), -1)
    return np.array(rows, dtype=np.float64)


def _whole(values: tuple[Any, ...]) -> bool:
    """Whether all are whole for certain; for one row faster than numpy."""
    try:
        return not values or (
            all(map(float.is_integer, values))
            and max(values) <= LARGEST_WHOLE
            and min(values) >= -LARGEST_WHOLE
        )
    except TypeError:  # None
        return False


def missing(field: str) -> BadInputError:
    return BadInputError("required field is missing", field=field, kind="missing_field")


def _numbers(column: Column, values: Sequence[Any]) -> Array:
    _check_types(column, values, *((bool,) if column.kind == "boolean" else (float, int)))
    try:
        array = np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number that no float64 can hold
        array = np.array([float("inf") if _too_large(v) else v for v in values], dtype=np.float64)
    if np.isinf(array).any():
        row = int(np.flatnonzero(np.isinf(array))[0])
        raise BadInputError("number out of range", row, column.name)
    if column.required and np.isnan(array).any():
        row = int(np.flatnonzero(np.isnan(array))[0])
        raise BadInputError("expected number, got NaN", row, column.name)
    return array


def _too_large(value: Any) -> bool:
    try:
        float(value or 0)
    except OverflowError:
        return True
    return False


def _check_types(column: Column, values: Sequence[Any], *types: type) -> None:
    allowed = {*types, type(None)} if not column.required else set(types)
    if set(map(type, values)) <= allowed:
        return
    row = next(i for i, value in enumerate(values) if type(value) not in allowed)
    words = dict.fromkeys(WORDS[kind.__name__] for kind in types)
    expected = " or ".join([*words, *([] if column.required else ["null"])])
    got = WORDS.get(type(values[row]).__name__, "something else")
    raise BadInputError(f"expected {expected}, got {got}", row, column.name)


def _objects(texts: list[Any]) -> Array:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _days(texts: list[str | None], field: str) -> Array:
    days = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text is None:
            continue
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            days[row] = (moment - EPOCH) // MICROSECOND / DAY
        except (ValueError, OverflowError):
            raise BadInputError("expected a date such as 2026-01-31", row, field) from None
    return days
