"""Parquet, where pyarrow is installed: read in a process of its own.

A few bytes of Parquet can stand for gigabytes, and some broken files take the process down that
reads them. So it is another one that reads them, `python -m trilho.serving.parquet`, with a bound
on its memory; it starts with the first request that needs it, and again after it had to go.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

import msgspec
from msgspec import Struct

from trilho.serving import tables
from trilho.serving.columns import Batch, Columns
from trilho.serving.messages import BadInputError, ProblemError, TooLargeError

MEMORY = 1 << 30
# What the texts of a reply may take; they are counted once, however often they are repeated.
MAX_TEXT = 64 << 20
READ_SECONDS = 30.0
BATCH = 4096
LENGTH = struct.Struct("<Q")


class Wanted(Struct):
    """What the reader is told when it starts."""

    columns: list[str]
    texts: list[str]
    max_rows: int
    memory: int


class Texts(Struct):
    """A column of texts: each once, and which of them stands in each row."""

    words: list[str | None]
    places: list[int | None]


class Reply(Struct):
    """The columns that were found, or what is wrong."""

    rows: int = 0
    values: dict[str, list[Any]] = {}
    texts: dict[str, Texts] = {}
    status: int = 200
    error: str = ""


# ── the service's side ────────────────────────────────────────────────────────────────────────────


class Reader:
    """Reads bodies by way of the other process; threads may share it."""

    def __init__(
        self,
        columns: Columns,
        max_rows: int,
        *,
        seconds: float = READ_SECONDS,
        memory: int = MEMORY,
    ) -> None:
        names = [name for name in (*columns.names, columns.id) if name is not None]
        texts = [column.name for column in columns.all if column.kind == "string"]
        self._columns = columns
        self._wanted = msgspec.json.encode(Wanted(names, texts, max_rows, memory)).decode()
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._decode = msgspec.msgpack.Decoder(Reply).decode

    def read(self, body: bytes) -> Batch:
        """Return the rows of a Parquet file.

        Raises
        ------
        BadInputError
            With the row (from 0) and the field where there is one.
        TooLargeError
            More rows, or more text, than are taken at once.
        """
        with self._lock:
            reply = self._ask(body)
        if reply.status == 413:
            raise TooLargeError(reply.error)
        if reply.status != 200:
            raise BadInputError(reply.error, kind="body")
        lists = reply.values
        for name, texts in reply.texts.items():
            lists[name] = [None if i is None else texts.words[i] for i in texts.places]
        return self._columns.from_lists(lists, reply.rows)

    def _ask(self, body: bytes) -> Reply:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-m", "trilho.serving.parquet", self._wanted]
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the service's to hear
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(self._seconds, process.kill)
        late.start()
        try:
            send(process.stdin, body)
            return self._decode(receive(process.stdout))
        except (OSError, EOFError, msgspec.MsgspecError):
            self.close()
            raise BadInputError("the body is not valid Parquet", kind="body") from None
        finally:
            late.cancel()

    def close(self) -> None:
        """End the other process; the next request starts a new one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError):  # of what it will not read any more
                process.communicate()


def send(stream: IO[bytes], data: bytes) -> None:
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    (size,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    return _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


# ── the other side ────────────────────────────────────────────────────────────────────────────────


def main(wanted: Wanted) -> None:
    """Answer bodies on stdin with replies on stdout until the service is gone."""
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())  # no arenas: the bound is on what is really used
    resource.setrlimit(resource.RLIMIT_DATA, (wanted.memory, wanted.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            body = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = parse(body, wanted)
        except ProblemError as problem:
            reply = Reply(status=problem.status, error=problem.message)
        send(sys.stdout.buffer, msgspec.msgpack.encode(reply))


def parse(body: bytes, wanted: Wanted) -> Reply:
    """Return the wanted columns of a Parquet file, row group by row group.

    Raises
    ------
    BadInputError
        It is none, or one with nested columns.
    TooLargeError
        More rows, or more text, than are taken at once.
    """
    import pyarrow as pa
    from pyarrow import parquet

    reply = Reply()
    try:
        with parquet.ParquetFile(pa.BufferReader(body)) as file:
            # nothing else of the metadata is asked for: pyarrow does not survive some answers
            schema, rows = file.schema_arrow, file.metadata.num_rows
        if rows > wanted.max_rows:
            raise TooLargeError(
                f"the body holds {rows} rows; send at most {wanted.max_rows} at once"
            )
        if len(set(schema.names)) != len(schema.names):
            raise BadInputError("a column is named twice")
        if any(pa.types.is_nested(field.type) for field in schema):
            raise BadInputError("nested columns are not supported")
        present = [name for name in wanted.columns if name in schema.names]
        # as dictionaries: a file may repeat one long text a million times
        words = [name for name in wanted.texts if name in present]
        with parquet.ParquetFile(pa.BufferReader(body), read_dictionary=words) as file:
            for batch in file.iter_batches(BATCH, columns=present, use_threads=False):
                reply.rows += batch.num_rows
                if reply.rows > wanted.max_rows:
                    raise TooLargeError(f"the body holds more than {wanted.max_rows} rows")
                for name in present:
                    _add(reply, name, batch.column(name))
    except (pa.ArrowException, OSError, ValueError, IndexError, OverflowError, MemoryError):
        # their texts may quote the file
        raise BadInputError("the body is not valid Parquet") from None
    reply.rows = reply.rows if present else rows
    if not reply.rows:
        raise BadInputError("there is no row in the request")
    return reply


def _add(reply: Reply, name: str, array: Any) -> None:
    """Add a piece of a column to the reply, as plain values."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type) and _is_text(array.type.value_type):
        texts = reply.texts.setdefault(name, Texts([], []))
        places = array.indices.to_pylist()
        used = sorted(set(places) - {None})
        if used and not 0 <= used[0] <= used[-1] < len(array.dictionary):
            raise IndexError
        found = {place: len(texts.words) + i for i, place in enumerate(used)}
        texts.places += [found.get(place) for place in places]
        texts.words += array.dictionary.take(pa.array(used, pa.int64())).to_pylist()
        if sum(len(word or "") for t in reply.texts.values() for word in t.words) > MAX_TEXT:
            raise TooLargeError("the body holds too much text")
        return
    reply.values.setdefault(name, []).extend(_plain(array))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain(array: Any) -> list[Any]:
    import pyarrow as pa

    types = pa.types
    simple = (types.is_integer, types.is_floating, types.is_boolean, types.is_null, _is_text)
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not any(test(kind) for test in (*simple, types.is_date, types.is_timestamp)):
        raise BadInputError(f"columns of type {kind} are not supported")
    return tables.plain(array)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Wanted))
