"""From the spool's lines to what is stored: gzipped JSON lines, or Parquet row by row."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from isal import isal_zlib

from trilho.bundle import Signature
from trilho.serving.columns import Columns
from trilho.serving.predictions_lines import hidden
from trilho.serving.settings import Keeping

# From a file of lines to an object's bytes and the end of its name.
Pack = Callable[[Path], tuple[bytes, str]]

READ_BYTES = 128 * 1024
GZIP_FORMAT = 31  # to zlib: a gzip header, without a time, and the largest window
GZIP_LEVEL = 1  # as small as zlib's first level, in a fifth of its time
HOUSE = ("request_id", "model", "version", "digest", "milliseconds")


def packer(signature: Signature, columns: Columns, digest: str, options: Keeping) -> Pack:
    """Return what packs the lines of one model."""
    if options.format == "jsonl":
        return zipped
    import pyarrow as pa

    schema = _schema(signature, columns, options)

    def pack(path: Path) -> tuple[bytes, str]:
        records = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
        try:
            if all(record["digest"] == digest for record in records):
                return _parquet(records, schema), ".parquet"
        except (pa.ArrowException, LookupError, TypeError, ValueError):
            pass  # written with other settings
        return zipped(path)  # or another model's, with other columns, from a service before

    return pack


def zipped(path: Path) -> tuple[bytes, str]:
    """Return the lines as gzip has them, read a piece at a time."""
    deflate = isal_zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FORMAT)
    with path.open("rb") as lines:
        pieces = [deflate.compress(piece) for piece in iter(partial(lines.read, READ_BYTES), b"")]
    return b"".join([*pieces, deflate.flush()]), ".jsonl.gz"


def _schema(signature: Signature, columns: Columns, options: Keeping) -> Any:
    """The same types in every file, whatever happens to be missing in it."""
    import pyarrow as pa

    kinds = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
    wanted = columns.names if options.columns is None else options.columns
    inputs = []
    sensitive = hidden(signature, options)
    for column in columns.all:
        secret = column.name in sensitive
        if column.name in wanted and not (secret and options.hash_key is None):
            kind = pa.string() if secret else kinds.get(column.kind, pa.string())
            inputs.append((column.name, kind))
    one = pa.float64()
    return pa.schema(
        [
            ("time", pa.timestamp("ms", "UTC")),
            *((name, pa.float64() if name == "milliseconds" else pa.string()) for name in HOUSE),
            ("entity", pa.string()),
            ("inputs", pa.struct(inputs)),
            ("score", pa.list_(one) if signature.task == "multiclass" else one),
            ("decision", pa.string()),
        ]
    )


def _parquet(records: list[dict[str, Any]], schema: Any) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    lists: dict[str, list[Any]] = {name: [] for name in schema.names if name != "inputs"}
    fields = schema.field("inputs").type
    inputs: dict[str, list[Any]] = {field.name: [] for field in fields}
    for record in records:
        rows = record["rows"]
        for name in ("model", "version", "digest"):
            lists[name] += [record[name]] * rows
        for name in ("entity", "decision"):
            lists[name] += [_text(value) for value in record[name] or [None] * rows]
        for name in ("time", "request_id", "milliseconds", "score"):
            lists[name] += record[name]
        for name, values in inputs.items():
            values += record["inputs"][name]
    times = pa.array(lists["time"]).cast(schema.field("time").type)
    arrays = [pa.array(inputs[field.name], field.type) for field in fields]
    columns = {
        field.name: pa.array(lists[field.name], field.type)
        for field in schema
        if field.name not in ("time", "inputs")
    }
    columns |= {"time": times, "inputs": pa.StructArray.from_arrays(arrays, fields=list(fields))}
    out = io.BytesIO()
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def _text(value: Any) -> str | None:
    """Ids and classes of whatever type, in one column."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
