"""A file's rows, piece by piece, with the types and the strictness of the service."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from trilho.dataset import source
from trilho.errors import DataError, Place, nearest
from trilho.serving import tables
from trilho.serving.columns import Batch, Columns
from trilho.serving.messages import BadInputError


class Piece(NamedTuple):
    """Some rows in a row.

    Attributes
    ----------
    batch
        As the model takes them; None for rows that were passed over.
    ids
        What names them, as it stands in the file; None without an id column.
    rows
        How many.
    done
        How much of the file was read by now, from 0 to 1.
    """

    batch: Batch | None
    ids: list[Any] | None
    rows: int
    done: float


def read(
    path: str, file: Path, columns: Columns, id: str | None, size: int, skip: int
) -> Iterator[Piece]:
    """Yield the rows of a CSV or Parquet file.

    Parameters
    ----------
    path, file
        The file as it was named, for messages, and where it is.
    columns
        The model's.
    id
        The column that names rows; it need not be there.
    size
        Rows of each piece but the last.
    skip
        How many pieces not to look at.

    Raises
    ------
    DataError
        The file is damaged or lacks a column, or a value is not what the model takes: with column
        and row.
    """
    if source.suffix(path) == ".parquet":
        yield from _parquet(path, file, columns, id, size, skip)
    else:
        yield from _csv(path, file, columns, id, size, skip)


def _csv(
    path: str, file: Path, columns: Columns, id: str | None, size: int, skip: int
) -> Iterator[Piece]:
    whole = file.stat().st_size
    first = 0
    try:
        with source.open_bytes(file) as raw:
            position = getattr(raw, "fileobj", raw)  # of what is packed, if it is
            text = io.TextIOWrapper(raw, "utf-8-sig", newline="")
            records = filter(None, csv.reader(text, strict=True))  # without blank lines
            names = next(records, [])
            _check_names(path, names, columns)
            while rows := list(islice(records, size)):
                batch, ids = None, None
                if skip > 0:
                    skip -= 1
                else:
                    texts = tables.transposed(names, rows)
                    batch = tables.from_texts(texts, columns, len(rows))
                    ids = None if id not in texts else list(texts[id])
                yield Piece(batch, ids, len(rows), min(1.0, position.tell() / whole))
                first += len(rows)
    except BadInputError as error:
        raise _explained(path, file, first, error) from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not valid UTF-8.", hint="Save it as UTF-8.") from None
    except (csv.Error, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from None


def _parquet(
    path: str, file: Path, columns: Columns, id: str | None, size: int, skip: int
) -> Iterator[Piece]:
    import pyarrow as pa
    from pyarrow import parquet

    first = 0
    try:
        with parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            _check_names(path, schema.names, columns)
            wanted = {*columns.names, id} & {*schema.names}
            for name in wanted:
                if pa.types.is_nested(schema.field(name).type):
                    raise DataError(f"{path}: column '{name}' is nested; expected plain values.")
            present = [name for name in schema.names if name in wanted]
            whole = opened.metadata.num_rows
            for arrow in opened.iter_batches(size, columns=present, use_threads=False):
                batch, ids = None, None
                if skip > 0:
                    skip -= 1
                else:
                    lists = {name: tables.plain(arrow.column(name)) for name in present}
                    batch = columns.from_lists(lists, arrow.num_rows)
                    ids = lists.get(id) if id is not None else None
                first += arrow.num_rows
                yield Piece(batch, ids, arrow.num_rows, first / whole)
    except BadInputError as error:
        raise _explained(path, None, first, error) from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as Parquet: {reason.rstrip('.')}.") from None


def _check_names(path: str, names: list[str], columns: Columns) -> None:
    if not names:
        raise DataError(f"{path} is empty; expected a header and rows.")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} names the column '{twice}' twice.")
    for column in columns.all:
        if column.required and column.name not in names:
            raise DataError(
                f"{path} has no column '{column.name}'{nearest(column.name, names)}; "
                "the model needs it.",
                places=(Place(path, 1),),
            )


def _explained(path: str, file: Path | None, first: int, error: BadInputError) -> DataError:
    """Say in which row of the file it is; of a CSV, in which line."""
    if error.row is None:
        return DataError(f"{path}: {error.message}.")
    row = first + error.row
    place = Place(path, None if file is None else source.csv_lines(file, [row])[0])
    where = f"{place} (row {row + 1})" if place.line else f"{path}, row {row + 1}"
    column = "" if error.field is None else f"column '{error.field}': "
    return DataError(f"{where}: {column}{error.message}.", places=(place,))
