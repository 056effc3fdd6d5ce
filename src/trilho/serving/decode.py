"""From JSON to the model's columns: records, and MLflow's other shapes.

A body is one record, a list of records, or an object with exactly one of `dataframe_records`,
`dataframe_split`, `instances` and `inputs`. Records are decoded straight into typed structs, which
is what the speed of one row depends on; the other shapes go through `Columns.from_lists`.
Columns that the signature does not name are ignored. JSON has no NaN or infinity, and neither is
accepted in another guise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from trilho.bundle import Column
from trilho.serving.columns import Batch, Columns
from trilho.serving.messages import BadInputError, TooLargeError

Rows = list[tuple[Any, ...]]  # their values in the order of the columns, of checked types
Read = TypeVar("Read")

TYPES: dict[str, type] = {"number": float, "integer": float, "boolean": bool}  # else str
ID = str | int | float | None
PARAMS = dict[str, Any] | None  # MLflow's; ignored, because no model here has any
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
    r"(?: - at `\$(?:\.dataframe_records|\.dataframe_split\.data)?"
    r"(?:\[(?P<row>\d+)\])?(?:\.(?P<field>.*))?`)?",
    re.DOTALL,
)
MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)
# msgspec cannot rename a field to a name with one of these.
UNNAMEABLE = re.compile(r'[\\"\x00-\x1f]')
FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")
MAX_TYPED = 8  # orders of columns whose decoders are kept
LOCATE = 1 << 20  # bodies above are not searched for the NaN that makes them invalid
INVALID = "the body is not valid JSON (a missing value is written null, not NaN)"


class Split(Struct):
    """pandas' `orient="split"`; its index is ignored."""

    columns: list[str]
    data: Raw


class Decoder:
    """Reads JSON bodies by the columns of one signature; at most `max_rows` rows of them."""

    def __init__(self, columns: Columns, max_rows: int) -> None:
        self.columns = columns
        self.max_rows = max_rows
        fields = columns.names if columns.id is None else [*columns.names, columns.id]
        self.odd = {name: f"column {i}" for i, name in enumerate(fields) if UNNAMEABLE.search(name)}
        rows = [_field(i, column) for i, column in enumerate(columns.all)]
        if columns.id is not None:
            rows.append((f"c{len(rows)}", ID, None))
        row: Any = msgspec.defstruct(
            "Row",
            rows,
            rename={f"c{i}": self.odd.get(name, name) for i, name in enumerate(fields)},
            kw_only=True,
            gc=False,
        )
        types: dict[str, Any] = {
            "dataframe_records": list[row],
            "dataframe_split": Split,
            "instances": Raw,
            "inputs": Raw,
        }
        self.forms = [form for form in FORMS if form not in fields]  # a column has precedence
        shapes: list[Any] = [(form, types[form] | UnsetType, UNSET) for form in self.forms]
        if "params" not in fields:
            shapes.append(("params", PARAMS, None))
        envelope = msgspec.defstruct("Envelope", shapes)
        self.decode_one = msgspec.json.Decoder(row).decode
        self.decode_list = msgspec.json.Decoder(list[row]).decode
        self.decode_lists = msgspec.json.Decoder(list[list[Any]]).decode
        self.decode_values = msgspec.json.Decoder(list[Any]).decode
        self.decode_raws = msgspec.json.Decoder(dict[str, Raw]).decode
        self.typed: dict[tuple[str, ...], Callable[[Raw], Rows]] = {}
        self.decode_envelope: Any = msgspec.json.Decoder(envelope).decode

    def read(self, body: bytes) -> Batch:
        """Return the rows in `body`.

        Raises
        ------
        BadInputError
            With the row (from 0) and the field where there is one.
        TooLargeError
            More rows than are taken at once.
        """
        found = self._values(body)
        return found if isinstance(found, Batch) else self.columns.from_rows(found)

    def records(self, body: bytes) -> Rows | None:
        """Return the rows in `body` for `Columns.from_rows`, None if they come in another form.

        Raises
        ------
        BadInputError, TooLargeError
            As `read`.
        """
        found = self._values(body)
        return None if isinstance(found, Batch) else found

    def _values(self, body: bytes) -> Rows | Batch:
        try:
            return reading(self._read, body, self.max_rows, self.explain)
        except NotJsonError:
            raise self._invalid(body) from None

    def _read(self, body: bytes) -> Rows | Batch:
        if self.odd:
            body = self._with_plain_names(body)
        if body.lstrip()[:1] != b"{":
            return self._from_structs(self.decode_list(body))
        envelope = self.decode_envelope(body)
        found = [form for form in self.forms if getattr(envelope, form) is not UNSET]
        if not found:
            return self._from_structs([self.decode_one(body)])
        if len(found) > 1:
            raise BadInputError(f"send one of {' and '.join(found)}, not both", kind="body")
        value = getattr(envelope, found[0])
        if found[0] == "dataframe_records":
            return self._from_structs(value)
        if found[0] == "dataframe_split":
            return self._from_split(value)
        return self._from_tensors(bytes(value))

    def _from_structs(self, rows: list[Any]) -> Rows:
        check_rows(len(rows), self.max_rows)
        return list(map(msgspec.structs.astuple, rows))

    def _from_split(self, split: Split) -> Rows | Batch:
        if len(set(split.columns)) != len(split.columns):
            raise BadInputError("a column is named twice", kind="body")
        rows = self._typed(tuple(split.columns), split.data)
        if rows is not None:
            check_rows(len(rows), self.max_rows)
            return rows
        return self._from_lists(split.columns, self.decode_lists(split.data))

    def _typed(self, names: tuple[str, ...], data: Raw) -> Rows | None:
        """Decode rows with the types of these columns, several times faster than list by list.

        None for whatever is not as it should be: the other way tells what that is.
        """
        typed = self.typed.get(names)
        if typed is None:
            if not names or not set(self.columns.names) <= set(names):
                return None
            if len(self.typed) >= MAX_TYPED:
                self.typed.clear()
            typed = self.typed[names] = _typed(self.columns, names)
        try:
            return typed(data)
        except msgspec.ValidationError:
            return None

    def _from_lists(self, names: list[str], rows: list[list[Any]]) -> Batch:
        check_rows(len(rows), self.max_rows)
        if set(map(len, rows)) != {len(names)}:
            row = next(i for i, values in enumerate(rows) if len(values) != len(names))
            raise BadInputError(f"expected {len(names)} values", row)
        return self.columns.from_lists(
            dict(zip(names, zip(*rows, strict=True), strict=True)), len(rows)
        )

    def _from_tensors(self, value: bytes) -> Rows | Batch:
        """`inputs` by columns, else rows: records, or lists in the signature's order."""
        if value[:1] == b"{":
            raws = self.decode_raws(value)
            lists: dict[str, list[Any]] = {}
            for name in (*self.columns.names, self.columns.id):
                if name is not None and name in raws:
                    try:
                        lists[name] = self.decode_values(raws[name])
                    except msgspec.ValidationError as error:
                        raise BadInputError(self.explain(str(error)).message, field=name) from None
            rows = len(next(iter(lists.values()), []))
            check_rows(rows, self.max_rows)
            return self.columns.from_lists(lists, rows)
        if value[1:].lstrip()[:1] == b"[":
            return self._from_lists(self.columns.given, self.decode_lists(value))
        return self._from_structs(self.decode_list(value))

    def explain(self, text: str) -> BadInputError:
        place = PLACE.fullmatch(text)
        assert place is not None  # the pattern takes any text
        what, row, field = place["what"], place["row"], place["field"]
        missing = MISSING.fullmatch(what)
        kind = "value"
        if missing is not None:
            what, field, kind = "required field is missing", missing["field"], "missing_field"
        else:
            what = re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), what)
            what = what.replace("`", "").replace(" | ", " or ").replace("Expected", "expected")
        names = {plain: name for name, plain in self.odd.items()}
        return BadInputError(
            what,
            row=None if row is None else int(row),
            field=None if field is None else names.get(field, field),
            kind=kind,
        )

    def _invalid(self, body: bytes) -> BadInputError:
        """Name the place of the first NaN or infinity, if that is what is wrong."""
        if len(body) <= LOCATE and (b"NaN" in body or b"Infinity" in body):
            found: list[str] = []

            def constant(name: str) -> object:
                found.append(name)
                return CONSTANT

            row, field, sound = None, None, False
            with suppress(ValueError, RecursionError):
                row, field = _find(json.loads(body, parse_constant=constant))
                sound = bool(found)
            if sound:
                known = field if field in self.columns.names else None  # else it is theirs
                return BadInputError("JSON has no NaN or infinity: write null", row, known, "body")
        return BadInputError(INVALID, kind="body")

    def _with_plain_names(self, body: bytes) -> bytes:
        """Rename the columns in records that msgspec cannot name; only for such signatures."""
        value = msgspec.json.decode(body)
        records = [value]
        for rows in (value, *(value.get(form) for form in self.forms if isinstance(value, dict))):
            records += rows if isinstance(rows, list) else []
        for record in records:
            if isinstance(record, dict):
                for name, plain in self.odd.items():
                    if name in record:
                        record[plain] = record.pop(name)
        return msgspec.json.encode(value)


class NotJsonError(BadInputError):
    """The body breaks JSON's grammar."""


def reading(
    read: Callable[[bytes], Read],
    body: bytes,
    max_rows: int,
    explain: Callable[[str], BadInputError],
) -> Read:
    """Call `read`, and turn whatever JSON can do wrong into a `BadInputError`.

    Each row is an object or a list; counting their beginnings tells too many of them before they
    take twenty times their size in memory.
    """
    if len(body) > 2 * max_rows and body.count(b"{") + body.count(b"[") > max_rows + 1000:
        raise TooLargeError(f"the body holds more than {max_rows} objects and lists")
    try:
        if not body.isascii():
            body.decode()  # what is skipped is not decoded otherwise
        return read(body)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except UnicodeDecodeError:
        raise BadInputError("the body is not valid UTF-8", kind="body") from None
    except msgspec.DecodeError:
        raise NotJsonError(INVALID, kind="body") from None
    except RecursionError:
        raise BadInputError("the body is nested too deeply", kind="body") from None


def check_rows(rows: int, most: int) -> None:
    if rows == 0:
        raise BadInputError("there is no row in the request", kind="body")
    if rows > most:
        raise TooLargeError(f"the body holds {rows} rows; send at most {most} at once")


CONSTANT = object()  # stands for NaN and the infinities


def _find(value: Any) -> tuple[int | None, str | None]:
    """Return row and field of the first `CONSTANT`, in the shapes that have rows and fields."""
    names: list[Any] = []
    if isinstance(value, dict):
        split = value.get("dataframe_split")
        if isinstance(split, dict):
            named = split.get("columns")
            names = named if isinstance(named, list) else []
            value = split.get("data")
        elif isinstance(value.get("inputs"), dict):
            for field, values in value["inputs"].items():
                if isinstance(values, list) and CONSTANT in values:
                    return values.index(CONSTANT), field
        for form in ("dataframe_records", "instances", "inputs"):
            if isinstance(value, dict) and isinstance(value.get(form), list):
                value = value[form]
    if isinstance(value, dict):
        return None, next((field for field, v in value.items() if v is CONSTANT), None)
    for row, values in enumerate(value if isinstance(value, list) else []):
        if isinstance(values, dict):
            for field, v in values.items():
                if v is CONSTANT:
                    return row, field
        elif isinstance(values, list) and CONSTANT in values:
            i = values.index(CONSTANT)
            return row, names[i] if i < len(names) and isinstance(names[i], str) else None
    return None, None


def _field(i: int, column: Column) -> Any:
    kind: Any = TYPES.get(column.kind, str)
    return (f"c{i}", kind) if column.required else (f"c{i}", kind | None, None)


def _typed(columns: Columns, names: tuple[str, ...]) -> Callable[[Raw], list[tuple[Any, ...]]]:
    """Return what decodes rows in the order of `names`, and puts them in the order of `columns`."""
    kinds = {column.name: _field(0, column)[1] for column in columns.all}
    if columns.id is not None:
        kinds[columns.id] = ID
    row: Any = tuple[tuple(kinds.get(name, Any) for name in names)]  # type: ignore[misc]
    decode = msgspec.json.Decoder(list[row]).decode
    ids = [columns.id] if columns.id in names else []
    places = [names.index(name) for name in (*columns.names, *ids)]
    if places == list(range(len(names))):
        return decode
    if len(places) == 1:
        return lambda data: [(values[places[0]],) for values in decode(data)]
    pick = itemgetter(*places)
    return lambda data: list(map(pick, decode(data)))
