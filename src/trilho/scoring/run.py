"""A scoring from beginning to end, or from where it was killed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from trilho.bundle import Signature, sha256_file
from trilho.dataset import source
from trilho.errors import DataError, UsageError
from trilho.scoring.parts import Job, Parts
from trilho.scoring.rows import read
from trilho.serving.columns import Array, Batch
from trilho.serving.messages import BadInputError
from trilho.serving.predictor import Prediction, Predictor
from trilho.storage import open_store

CHUNK = 20_000  # rows: some tens of megabytes while they are Python's values
WORK = Path(".trilho/score")  # for results that go to S3


class Scored(Struct, frozen=True, kw_only=True):
    """What was done."""

    input: str
    output: str
    model: str
    version: str | None
    digest: str
    rows: int
    resumed_rows: int  # of a run before, which was killed
    seconds: float


def score(
    predictor: Predictor,
    path: str,
    target: str,
    *,
    chunk: int = CHUNK,
    overwrite: bool = False,
    progress: Callable[[float, int], None] = lambda *_: None,
) -> Scored:
    """Write the predictions for each row of a file to another file.

    Parameters
    ----------
    predictor
        The model, as the service has it.
    path, target
        CSV, gzipped CSV or Parquet; local paths or `s3://bucket/key`.
    chunk
        Rows in memory at a time.
    overwrite
        Whether `target` may exist.
    progress
        Called with the share of the file that is read, and the rows that are scored.

    Raises
    ------
    UsageError
        A name that cannot be, or a target that exists.
    DataError
        The file does not have what the model needs; with column and row.
    """
    started = time.monotonic()
    ending = source.suffix(target)
    file = source.local(path)
    signature = predictor.signature
    columns = _names(signature, _has_id(path, file, signature))
    job = Job(
        input=sha256_file(file),
        model=predictor.identity.digest,
        chunk=chunk,
        suffix=ending,
        columns=columns,
    )
    rows = resumed = 0
    with Parts(_folder(target), job).opened() as parts:
        skip = parts.done
        if not (overwrite or parts.resumed) and _exists(target):
            parts.remove()
            raise UsageError(f"{target} exists already.", hint="Use --force to replace it.")
        try:
            for piece in read(path, file, predictor.columns, signature.id, chunk, skip):
                if piece.batch is None:
                    resumed += piece.rows
                else:
                    prediction = _predict(predictor, piece.batch, path, rows)
                    ids = piece.ids if columns[0] == signature.id else None
                    parts.add(ids, _outputs(signature, prediction))
                rows += piece.rows
                progress(piece.done, rows)
            if rows == 0:
                raise DataError(f"{path} has a header but no rows.")
        except DataError:
            parts.remove()  # the same file would fail again
            raise
        _deliver(parts, target, overwrite)
        parts.remove()
    return Scored(
        input=path,
        output=target,
        model=predictor.identity.name,
        version=predictor.identity.version,
        digest=predictor.identity.digest,
        rows=rows,
        resumed_rows=resumed,
        seconds=round(time.monotonic() - started, 3),
    )


def _predict(predictor: Predictor, batch: Batch, path: str, first: int) -> Prediction:
    try:
        return predictor.predict(batch)
    except BadInputError as error:
        last = first + batch.rows
        raise DataError(f"{path}, rows {first + 1} to {last}: {error.message}") from None


def _has_id(path: str, file: Path, signature: Signature) -> bool:
    if source.suffix(path) == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        try:
            return signature.id in parquet.read_schema(file).names
        except (pa.ArrowException, OSError):
            return False  # the reader says what is wrong
    return signature.id in source.header(file, "utf-8")


def _names(signature: Signature, id: bool) -> list[str]:
    """The result's columns."""
    names = [signature.id] if id and signature.id is not None else []
    if signature.task == "multiclass":
        names += [f"probability_{label}" for label in signature.classes or []]
    else:
        names.append("prediction")
    return names if signature.task == "regression" else [*names, "decision"]


def _outputs(signature: Signature, prediction: Prediction) -> dict[str, list[Any] | Array]:
    """The columns but the id, as the service answers them."""
    scores = prediction.scores
    found: dict[str, list[Any] | Array] = {}
    if signature.task == "multiclass":
        for i, label in enumerate(signature.classes or []):
            found[f"probability_{label}"] = scores[:, i]
    else:
        found["prediction"] = scores
    if prediction.decisions is not None:
        found["decision"] = prediction.decisions
    return found


def _folder(target: str) -> Path:
    """Where the parts are kept: beside a local result, so that it is renamed and not copied."""
    if target.startswith("s3://"):
        return WORK / hashlib.sha256(target.encode()).hexdigest()[:16]
    return Path(f"{target}.parts")


def _place(target: str) -> tuple[str, str]:
    prefix, _, name = target.rpartition("/")
    return prefix, name


def _exists(target: str) -> bool:
    if target.startswith("s3://"):
        prefix, name = _place(target)
        return open_store(prefix).exists(name)
    return Path(target).exists()


def _deliver(parts: Parts, target: str, overwrite: bool) -> None:
    """Give the whole result its name."""
    if not target.startswith("s3://"):
        parts.join(Path(target))
        return
    whole = parts.folder / "result"
    parts.join(whole)
    prefix, name = _place(target)
    if not overwrite:
        open_store(prefix).upload_once(name, whole, sha256_file(whole))
        return
    from trilho.storage import aws

    bucket, _, key = target.removeprefix("s3://").partition("/")
    with aws.explained(f"write {target}", needs="s3:PutObject on the object"):
        aws.client("s3").upload_file(str(whole), bucket, key)
