"""From a request's body to the model's columns: typed by the signature, strict about types.

A body is one record, a list of records, or MLflow's `{"dataframe_records": [...]}`. Columns that
the signature does not name are ignored; a column that may be missing may be absent or null.
JSON has no NaN or infinity, and neither is accepted in another guise. Dates are ISO 8601 texts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Raw, Struct, UnsetType

from trilho.bundle import Column, Signature

Array = npt.NDArray[Any]

TYPES: dict[str, type] = {"number": float, "integer": float, "boolean": bool}  # else str
WORDS = {
    "float": "number",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
    "object": "object",
    "array": "list",
}
# How msgspec words a failed validation; its texts name types and places, never values.
PLACE = re.compile(
    r"(?P<what>.*?)"
    r"(?: - at `\$(?:\.dataframe_records)?(?:\[(?P<row>\d+)\])?(?:\.(?P<field>.*))?`)?",
    re.DOTALL,
)
MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# msgspec cannot rename a field to a name with one of these.
UNNAMEABLE = re.compile(r'[\\"\x00-\x1f]')


class BadInputError(Exception):
    """A body that cannot be predicted: says what was expected and where, never what was sent."""

    def __init__(self, message: str, row: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message, self.row, self.field = message, row, field


class OtherForms(Struct):
    """MLflow's other shapes, to answer them by name."""

    dataframe_split: Raw | UnsetType = UNSET
    instances: Raw | UnsetType = UNSET
    inputs: Raw | UnsetType = UNSET


class Decoder:
    """Reads bodies by the columns of one signature."""

    def __init__(self, signature: Signature) -> None:
        # Numbers first, whole numbers before them: one matrix holds them, its rows are the columns.
        order = {"integer": 0, "number": 1, "boolean": 1, "date": 2}
        columns = sorted(signature.columns, key=lambda column: order.get(column.kind, 3))
        self.names = [column.name for column in columns]
        self.integers = sum(column.kind == "integer" for column in columns)
        self.numbers = sum(column.kind in TYPES for column in columns)
        self.dates = sum(column.kind == "date" for column in columns)
        self.odd = {
            name: f"column {i}" for i, name in enumerate(self.names) if UNNAMEABLE.search(name)
        }
        row: Any = msgspec.defstruct(
            "Row",
            [_field(i, column) for i, column in enumerate(columns)],
            rename={f"c{i}": self.odd.get(name, name) for i, name in enumerate(self.names)},
            kw_only=True,
            gc=False,
        )
        envelope = msgspec.defstruct(
            "Envelope",
            [("dataframe_records", list[row] | UnsetType, UNSET)],
            bases=(OtherForms,),
        )
        self.decode_one = msgspec.json.Decoder(row).decode
        self.decode_list = msgspec.json.Decoder(list[row]).decode
        self.decode_envelope: Any = msgspec.json.Decoder(envelope).decode

    def read(self, body: bytes) -> dict[str, Array]:
        """Return the columns of the records in `body`.

        Numbers, whole numbers and booleans are float64 with NaN for missing, dates too as days
        since 1970-01-01 (UTC where they name no zone); texts are objects: `str` and None.

        Raises
        ------
        BadInputError
            With the row (from 0) and the field where there is one.
        """
        rows = self._rows(body)
        if not rows:
            raise BadInputError("there is no record in the request")
        values = list(map(msgspec.structs.astuple, rows))
        n = self.numbers
        numeric = [v[:n] for v in values] if n < len(self.names) else values
        matrix = np.array(numeric, dtype=np.float64).T
        if len(rows) > 1:
            matrix = np.ascontiguousarray(matrix)
        self._check_whole(matrix[: self.integers])
        columns = dict(zip(self.names, matrix, strict=False))
        for i in range(n, n + self.dates):
            columns[self.names[i]] = _days([v[i] for v in values], self.names[i])
        for i in range(n + self.dates, len(self.names)):
            texts = np.empty(len(rows), dtype=object)
            texts[:] = [v[i] for v in values]
            columns[self.names[i]] = texts
        return columns

    def _rows(self, body: bytes) -> list[Any]:
        try:
            if self.odd:
                body = self._with_plain_names(body)
            if body.lstrip()[:1] != b"{":
                return self.decode_list(body)
            envelope = self.decode_envelope(body)
            if envelope.dataframe_records is not UNSET:
                rows: list[Any] = envelope.dataframe_records
                return rows
            for form in OtherForms.__struct_fields__:
                if getattr(envelope, form) is not UNSET and form not in self.names:
                    raise BadInputError(f"{form} is not supported: send dataframe_records")
            return [self.decode_one(body)]
        except msgspec.ValidationError as error:
            raise self._explain(str(error)) from None
        except UnicodeDecodeError:
            raise BadInputError("the body is not valid UTF-8") from None
        except msgspec.DecodeError:
            raise BadInputError(
                "the body is not valid JSON (a missing value is written null, not NaN)"
            ) from None
        except RecursionError:
            raise BadInputError("the body is nested too deeply") from None

    def _explain(self, text: str) -> BadInputError:
        place = PLACE.fullmatch(text)
        assert place is not None  # the pattern takes any text
        what, row, field = place["what"], place["row"], place["field"]
        missing = MISSING.fullmatch(what)
        if missing is not None:
            what, field = "required field is missing", missing["field"]
        else:
            what = re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), what)
            what = what.replace("`", "").replace(" | ", " or ").replace("Expected", "expected")
        names = {plain: name for name, plain in self.odd.items()}
        return BadInputError(
            what,
            row=None if row is None else int(row),
            field=None if field is None else names.get(field, field),
        )

    def _check_whole(self, matrix: Array) -> None:
        fractions = np.abs(np.fmod(matrix, 1.0)) > 0  # NaN compares false
        if fractions.any():
            column, row = np.argwhere(fractions)[0]
            raise BadInputError("expected a whole number", row=int(row), field=self.names[column])

    def _with_plain_names(self, body: bytes) -> bytes:
        """Rename the columns that msgspec cannot name; slower, and only for such signatures."""
        value = msgspec.json.decode(body)
        rows = value
        if isinstance(value, dict):
            rows = value.get("dataframe_records", [value])
        if isinstance(rows, list):
            for row in rows:
                if isinstance(row, dict):
                    for name, plain in self.odd.items():
                        if name in row:
                            row[plain] = row.pop(name)
        return msgspec.json.encode(value)


def _days(texts: list[str | None], field: str) -> Array:
    days = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text is None:
            continue
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            days[row] = (moment - EPOCH) // MICROSECOND / 86_400_000_000
        except (ValueError, OverflowError):
            raise BadInputError("expected a date such as 2026-01-31", row, field) from None
    return days


def _field(i: int, column: Column) -> Any:
    kind: Any = TYPES.get(column.kind, str)
    return (f"c{i}", kind) if column.required else (f"c{i}", kind | None, None)
