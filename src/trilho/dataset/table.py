"""A frame from a file, with no value silently turned into another.

Arrow's CSV reader types a column by *all* of its values (the C reader of pandas goes chunk by chunk
and leaves mixed columns) and refuses short rows (the C reader fills them with missing values).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from trilho.dataset import columns, source
from trilho.errors import DataError, Place

# Texts that mean "missing" in a CSV.
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "nan", "NaN", "null", "NULL", "None", "<NA>", "NaT"]
BLOCK = 1 << 20
PIECE = 1 << 15


class Table(NamedTuple):
    frame: pd.DataFrame
    names: pd.Index | None  # the id column as text


def read_table(path: str, file: Path, encoding: str, id_column: str | None) -> Table:
    """Read a dataset file.

    Dtypes of the frame: `int64`, `float64` (narrower ones of Parquet stay), `bool` (`boolean`
    where values are missing), `datetime64[us]` for ISO dates and times, `str`. Whole numbers with
    missing values among them are `float64`. Whole numbers written with leading zeros are codes and
    stay text; so does any column that mixes kinds.

    Parameters
    ----------
    path, file
        The dataset as configured, for messages, and its local file.
    encoding
        Text encoding of a CSV.
    id_column
        The column that names a row, if there is one. Its text as it is written is what names the
        row, so a row `17` keeps its name, and its side of the split, when an `A18` is added.

    Raises
    ------
    DataError
        The file is empty, damaged, ragged, not in its encoding, repeats a column name or holds an
        infinite number.
    """
    if file.stat().st_size == 0:
        raise DataError(f"{path} is empty.", hint="A dataset needs a header and rows.")
    parquet = source.suffix(path) == ".parquet"
    frame = _parquet(path, file) if parquet else _csv(path, file, encoding, id_column)
    if frame.empty:
        raise DataError(f"{path} has a header but no rows.")
    names = None
    if id_column in frame:
        names = pd.Index(frame[id_column].astype("str"))
        frame[id_column] = _natural(frame[id_column])
    pa.default_memory_pool().release_unused()
    _finite(frame, path, None if parquet else file, encoding)
    return Table(frame, names)


# CSV


def _csv(path: str, file: Path, encoding: str, id_column: str | None) -> pd.DataFrame:
    source.check_encoding(encoding)
    try:
        _check_names(source.header(file, encoding), path)
        return _parse(file, encoding, {id_column: pa.string()} if id_column else {})
    except (EOFError, zlib.error, OSError) as error:
        raise _damaged(path, error) from None
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise (
            source.undecodable(file, path, encoding)
            or source.ragged(file, path, encoding)
            or DataError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}.")
        ) from None


def _parse(file: Path, encoding: str, types: dict[str, Any]) -> pd.DataFrame:
    """Parse a CSV, typed by its first block, or by the whole where that does not hold."""
    try:
        frame, watched = _stream(file, encoding, types)
    except pa.ArrowInvalid:
        frame, watched = _whole(file, encoding, types)
    numbers = frame.select_dtypes("number").columns.difference(list(types))
    # Bytes of other alphabets than ASCII's cannot be watched.
    if len(numbers) and (watched.padded or encoding.lower().startswith(("utf-16", "utf-32"))):
        with source.open_bytes(file) as raw:
            options = _options(encoding, dict.fromkeys(numbers, pa.string()), list(numbers))
            texts = csv.read_csv(raw, **options)
        for name in numbers:
            if pc.any(pc.match_substring_regex(texts[name], r"^\s*[+-]?0\d+\s*$")).as_py():
                frame[name] = texts[name].to_pandas()
    return frame


def _stream(file: Path, encoding: str, types: dict[str, Any]) -> tuple[pd.DataFrame, _Watched]:
    """Parse block by block with the types of the first block; ArrowInvalid if they do not hold."""
    with source.open_bytes(file) as raw:
        block = raw.read(BLOCK)
        raw.seek(0)
        first = csv.open_csv(raw, **_options(encoding, types)).schema
    # said outright, types are converted a third faster than when the reader infers the same ones
    types = {field.name: field.type for field in first} | _as_text(first) | types
    # what is packed holds more; its columns grow as they need
    rows = int(file.stat().st_size / len(block) * block.count(b"\n") * 1.02)
    with source.open_bytes(file) as raw:
        watched = _Watched(raw)
        reader = csv.open_csv(watched, **_options(encoding, types))
        return columns.frame(reader.schema, reader, rows), watched


def _whole(file: Path, encoding: str, types: dict[str, Any]) -> tuple[pd.DataFrame, _Watched]:
    """Parse at once; each column is typed by all of its values."""
    with source.open_bytes(file) as raw:
        watched = _Watched(raw)
        table = csv.read_csv(watched, **_options(encoding, types))
    clock = _as_text(table.schema)
    if clock.keys() - types.keys():
        return _whole(file, encoding, types | clock)
    return columns.frame(table.schema, table.to_batches(), table.num_rows), watched


def _as_text(schema: Any) -> dict[str, Any]:
    """The columns to keep as text: times of day, and bytes that were no text (and then fail)."""
    return {
        field.name: pa.string()
        for field in schema
        if pa.types.is_time(field.type) or pa.types.is_binary(field.type)
    }


def _options(encoding: str, types: dict[str, Any], only: list[str] | None = None) -> dict[str, Any]:
    return {
        "read_options": csv.ReadOptions(encoding=encoding, block_size=BLOCK),
        "parse_options": csv.ParseOptions(newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            null_values=MISSING,
            strings_can_be_null=True,
            # not 1 and 0, as Arrow has it: a column of `true` and `1` is mixed
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
            column_types=types,
            include_columns=only or [],
        ),
    }


class _Watched:
    """A readable file that notes whether any value may start with a zero and another digit.

    Arrow reads `007` as the number 7 and does not say so. Looking at the bytes as they pass costs
    a fraction of reading every column of numbers as text, too.
    """

    closed = False

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.padded = False
        self.tail = b"\n"

    def read(self, size: int = -1) -> bytes:
        block = self.raw.read(size)
        if not self.padded:
            text = self.tail + block
            seen = np.frombuffer(text, dtype=np.uint8)
            # by pieces that stay in the processor's cache
            self.padded = any(_padded(seen[i : i + PIECE + 2]) for i in range(0, len(seen), PIECE))
            self.tail = text[-2:]
        return block

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _padded(text: npt.NDArray[np.uint8]) -> bool:
    """Tell whether a zero stands after a comma, quote, space or line end and before a digit."""
    # letters, digits and the point come after the comma; what is below the zero wraps around
    after = text[:-2] <= ord(",")
    return bool((after & (text[1:-1] == ord("0")) & (text[2:] - np.uint8(ord("0")) <= 9)).any())


# Parquet


def _parquet(path: str, file: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            # pandas writes an unnamed index as such a column; it is not data
            schema = pa.schema(
                f for f in parquet.schema_arrow if not f.name.startswith("__index_level_")
            )
            _check_names(schema.names, path)
            wanted = pa.schema([(field.name, _plain(field, path)) for field in schema])
            batches = parquet.iter_batches(columns=schema.names)
            return columns.frame(wanted, _cast(batches, wanted), parquet.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _plain(field: Any, path: str) -> Any:
    """Return the type under which a Parquet column is read."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    tests = ("boolean", "integer", "floating", "string", "date", "timestamp", "null")
    if not any(getattr(pa.types, f"is_{test}")(kind) for test in tests):
        raise DataError(
            f"{path}: column '{field.name}' holds values of type {kind}, which no model reads.",
            hint="Expected numbers, booleans, text or dates; leave the column out of the file.",
        )
    return kind


def _cast(batches: Iterator[Any], schema: Any) -> Iterator[Any]:
    for batch in batches:
        yield batch.cast(schema)


# Both


def _check_names(names: list[str], path: str) -> None:
    if not names:
        raise DataError(f"{path} is empty.", hint="A dataset needs a header and rows.")
    place = Place(path, None if path.endswith(".parquet") else 1)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        shown = ", ".join(f"'{name}'" for name in twice)
        raise DataError(
            f"{place} repeats the column name {shown}; names must be unique.",
            hint="Rename or remove a column in the file's header.",
            places=(place,),
        )
    for position, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(
                f"{place}: column {position} has no name.",
                hint="Name it in the header; a frame is best saved with to_csv(index=False).",
                places=(place,),
            )


def _natural(values: pd.Series) -> pd.Series:
    """Return ids as whole numbers where that loses nothing; `007` and `+7` stay text."""
    if values.dtype.kind != "O" or values.hasnans:
        return values
    text = pa.chunked_array(pa.array(values))
    try:
        number = text.cast(pa.int64())
    except pa.ArrowInvalid:
        return values
    return number.to_pandas() if number.cast(text.type).equals(text) else values


def _damaged(path: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{path} is damaged: {reason.rstrip('.')}.",
        hint="Fetch or write the file again; it may have been cut short.",
    )


def _finite(frame: pd.DataFrame, path: str, file: Path | None, encoding: str) -> None:
    """Raise for the first infinite number."""
    for name in frame.columns:
        values = frame[name]
        if values.dtype.kind != "f" or not (infinite := np.isinf(values.to_numpy())).any():
            continue
        rows = np.flatnonzero(infinite)
        line = source.csv_lines(file, [int(rows[0])], encoding)[0] if file else None
        place = Place(path, line)
        where = str(place) if file else f"{path}, row {rows[0] + 1}"
        raise DataError(
            f"{where}: column '{name}' holds an infinite number ({len(rows)} in the column); "
            "numbers must be finite.",
            hint="Leave the value empty if it is unknown.",
            places=(place,),
        )
