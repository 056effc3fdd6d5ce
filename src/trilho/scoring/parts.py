"""What is done of a scoring, kept beside its result until that is whole.

<folder>/job.json           what is scored by what, and into which pieces
<folder>/000000.csv ...     a part for each piece; it appears whole or not at all
"""

from __future__ import annotations

import csv
import fcntl
import gzip
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trilho.dataset import source
from trilho.errors import ConflictError, UsageError
from trilho.serving.columns import Array

BLOCK = 1 << 20


class Job(Struct, frozen=True, kw_only=True):
    """What decides the parts: with another one, none of them is of use."""

    input: str  # sha256 of the file
    model: str  # the bundle's digest
    chunk: int
    suffix: str
    columns: list[str]
    format: int = 1


class Parts:
    """The parts of one job, in a folder that only one process uses at a time."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder = folder
        self.job = job
        self.done = 0  # parts that are there

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Take the folder; parts of another job are thrown away.

        Raises
        ------
        ConflictError
            Another process scores into the same file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(f"Another process is at work in {self.folder}.") from None
            self._prepare()
            yield self

    @property
    def resumed(self) -> bool:
        return self.done > 0

    def _prepare(self) -> None:
        record = self.folder / "job.json"
        data = msgspec.json.encode(self.job)
        names = {path.name for path in self.folder.iterdir()}
        if record.name not in names and names - {"lock", "job.json.partial"}:
            raise UsageError(
                f"{self.folder} is needed for what is not complete yet, and holds something else.",
                hint="Move it away, or choose another name for the result.",
            )
        if not record.is_file() or record.read_bytes() != data:
            for path in self.folder.iterdir():
                if path.name != "lock":
                    path.unlink()
            _write(record, data)
        while self._path(self.done).is_file():
            self.done += 1

    def add(self, ids: list[Any] | None, columns: dict[str, list[Any] | Array]) -> None:
        """Write the next part."""
        path = self._path(self.done)
        if self.job.suffix == ".parquet":
            data = _parquet(ids, columns, self.job.columns)
        else:
            data = _csv(ids, columns)
            if self.job.suffix == ".csv.gz":
                data = gzip.compress(data, 6, mtime=0)  # members of one file, one after another
        _write(path, data)
        self.done += 1

    def join(self, target: Path) -> None:
        """Put the parts together into a file that appears whole."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            if self.job.suffix == ".parquet":
                self._join_parquet(partial)
            else:
                self._join_csv(partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        _sync(target.parent)

    def _join_csv(self, target: Path) -> None:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(self.job.columns)
        head = out.getvalue().encode()
        with open(target, "wb") as file:
            file.write(gzip.compress(head, mtime=0) if self.job.suffix == ".csv.gz" else head)
            for number in range(self.done):
                with open(self._path(number), "rb") as part:
                    shutil.copyfileobj(part, file, BLOCK)
            file.flush()
            os.fsync(file.fileno())

    def _join_parquet(self, target: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        # a part whose ids are all missing does not know their type
        schemas = [parquet.read_schema(self._path(number)) for number in range(self.done)]
        schema = pa.unify_schemas(schemas, promote_options="default")
        with open(target, "wb") as file:
            with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
                for number in range(self.done):
                    writer.write_table(parquet.read_table(self._path(number)).cast(schema))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}{self.job.suffix}"


def suffix(path: str) -> str:
    return source.suffix(path)


def _csv(ids: list[Any] | None, columns: dict[str, list[Any] | Array]) -> bytes:
    out = io.StringIO()
    lists = [values if isinstance(values, list) else _shown(values) for values in columns.values()]
    if ids is not None:
        lists.insert(0, ids)
    csv.writer(out, lineterminator="\n").writerows(zip(*lists, strict=True))
    return out.getvalue().encode()


def _shown(values: Array) -> list[Any]:
    """The shortest texts that are read as the same numbers; nothing for no number."""
    return [None if value != value else value for value in values.tolist()]


def _parquet(
    ids: list[Any] | None, columns: dict[str, list[Any] | Array], names: list[str]
) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    arrays = [pa.array(values, from_pandas=True) for values in columns.values()]
    if ids is not None:
        arrays.insert(0, pa.array(ids))
    out = io.BytesIO()
    parquet.write_table(pa.table(arrays, names=names), out, compression="zstd")
    return out.getvalue()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
