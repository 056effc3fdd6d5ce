"""What is kept of a prediction: one line of JSON, column by column, without what is sensitive.

A line is a request, or a piece of a large one. All of its values are lists with an entry for each
row, so single predictions and batches are read alike:

    {"time": "2026-01-31T12:00:00.123Z", "request_id": "...", "model": "credit_default",
     "version": "3", "digest": "sha256:...", "milliseconds": 0.61, "rows": 1, "entity": ["c-17"],
     "inputs": {"AGE": [24], ...}, "score": [0.83], "decision": [1]}
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from trilho.bundle import Signature
from trilho.errors import UsageError, nearest
from trilho.serving.columns import EPOCH, Array, Batch, Columns
from trilho.serving.predictor import Identity, Prediction
from trilho.serving.settings import Keeping

# A line holds so many rows at most: nothing that is encoded at once may hold up the rest for long.
PIECE = 1000
HASH_BYTES = 16

Values = list[Any]


class Line(Struct, frozen=True, kw_only=True, gc=False):
    """One line of the log."""

    time: str
    request_id: str
    model: str
    version: str | None
    digest: str
    milliseconds: float
    rows: int
    entity: Values | None  # the ids that the caller sent
    inputs: dict[str, Values]
    score: Values
    decision: Values | None


class Kept(NamedTuple):
    """A prediction to keep.

    Attributes
    ----------
    request_id, prediction, seconds, at
        As in the service's `Finished`.
    rows
        Which rows; None: all.
    """

    request_id: str
    prediction: Prediction
    seconds: float
    at: float
    rows: Array | None = None

    def size(self) -> int:
        return self.prediction.batch.rows if self.rows is None else len(self.rows)


class Lines:
    """Makes the lines of one model.

    Raises
    ------
    UsageError
        The settings name a column that the model does not have.
    """

    def __init__(
        self, signature: Signature, columns: Columns, identity: Identity, options: Keeping
    ) -> None:
        self._identity = identity
        self._encode = msgspec.json.Encoder().encode
        self._key = None if options.hash_key is None else options.hash_key.encode()
        self._second = (-1, "")
        known = [*columns.names, *([signature.id] if signature.id else [])]
        for variable, names in (
            ("TRILHO_LOG_COLUMNS", options.columns or ()),
            ("TRILHO_LOG_SENSITIVE", options.sensitive),
        ):
            for name in names:
                if name not in known:
                    raise UsageError(
                        f"{variable}: the model has no column '{name}'{nearest(name, known)}."
                    )
        wanted = set(columns.names if options.columns is None else options.columns)
        sensitive = set(options.sensitive)
        if self._key is None:
            wanted -= sensitive
        self._hashed = sorted(wanted & sensitive)
        self._entity = signature.id is not None and (
            signature.id not in sensitive or self._key is not None
        )
        self._hash_entity = signature.id in sensitive
        # (name, its row of the batch's matrix), by kind
        self._numbers: dict[str, list[tuple[str, int]]] = {"integer": [], "number": []}
        self._numbers["boolean"] = []
        self._dates: list[str] = []
        self._texts: list[str] = []
        for i, column in enumerate(columns.all):
            if column.name not in wanted:
                continue
            if i < columns.numbers:
                self._numbers[column.kind].append((column.name, i))
            else:
                (self._dates if column.kind == "date" else self._texts).append(column.name)

    def of(self, kept: Kept) -> Iterator[bytes]:
        """Yield the lines of a prediction, each with its end."""
        count = kept.size()
        if count <= PIECE:
            yield self._line(kept, kept.rows)
            return
        chosen = np.arange(count) if kept.rows is None else kept.rows
        for start in range(0, count, PIECE):
            yield self._line(kept, chosen[start : start + PIECE])

    def _line(self, kept: Kept, rows: Array | None) -> bytes:
        batch, scores, decisions = kept.prediction
        entity = batch.ids if self._entity else None
        count = batch.rows
        if rows is not None:
            scores, count = scores[rows], len(rows)
            entity = None if entity is None else [entity[i] for i in rows]
            decisions = None if decisions is None else [decisions[i] for i in rows]
        if entity is not None and self._hash_entity:
            entity = self._hashes(entity)
        identity = self._identity
        line = Line(
            time=self._time(kept.at),
            request_id=kept.request_id,
            model=identity.name,
            version=identity.version,
            digest=identity.digest,
            milliseconds=round(kept.seconds * 1000, 3),
            rows=count,
            entity=entity,
            inputs=self._inputs(batch, rows),
            score=scores.tolist(),
            decision=decisions,
        )
        return self._encode(line) + b"\n"

    def _inputs(self, batch: Batch, rows: Array | None) -> dict[str, Values]:
        numbers = (batch.matrix if rows is None else batch.matrix[:, rows]).tolist()
        inputs: dict[str, Values] = {name: numbers[i] for name, i in self._numbers["number"]}
        for name, i in self._numbers["integer"]:
            inputs[name] = [int(v) if v == v else None for v in numbers[i]]
        for name, i in self._numbers["boolean"]:
            inputs[name] = [v != 0 if v == v else None for v in numbers[i]]
        for names, text in ((self._dates, _dates), (self._texts, _same)):
            for name in names:
                values = batch.columns[name]
                inputs[name] = text((values if rows is None else values[rows]).tolist())
        for name in self._hashed:
            inputs[name] = self._hashes(inputs[name])
        return inputs

    def _hashes(self, values: Values) -> list[str | None]:
        """With a key, because who knows the few possible values could try them all."""
        assert self._key is not None
        found: list[str | None] = []
        for value in values:
            if value is None or value != value:
                found.append(None)
            else:
                digest = hmac.digest(self._key, self._encode(value), "sha256")
                found.append(digest[:HASH_BYTES].hex())
        return found

    def _time(self, at: float) -> str:
        second, known = self._second
        if int(at) != second:
            known = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
            self._second = (int(at), known)
        return f"{known}.{int(at % 1 * 1000):03d}Z"


def _same(values: Values) -> Values:
    return values


def _dates(days: Values) -> Values:
    texts: Values = []
    for value in days:
        if value != value:
            texts.append(None)
            continue
        moment = EPOCH + timedelta(days=value)
        texts.append(moment.date().isoformat() if value % 1 == 0 else moment.isoformat())
    return texts


def doubtful(
    signature: Signature, band: float
) -> Callable[[Prediction], Sequence[int] | Array] | None:
    """Return what finds the rows that the model was not sure of; None where that has no meaning.

    Binary: the score is less than `band` from the threshold; multiclass: the best two classes are
    less than `band` apart.
    """
    if signature.task == "regression" or band == 0:
        return None
    threshold = 0.5 if signature.threshold is None else signature.threshold

    def binary(prediction: Prediction) -> Sequence[int] | Array:
        scores = prediction.scores
        if len(scores) == 1:  # for one row faster than numpy
            return (0,) if abs(scores.item() - threshold) < band else ()
        return np.flatnonzero(np.abs(scores - threshold) < band)

    def multiclass(prediction: Prediction) -> Sequence[int] | Array:
        if prediction.scores.shape[1] < 2:
            return ()
        best = np.partition(prediction.scores, -2, axis=1)
        return np.flatnonzero(best[:, -1] - best[:, -2] < band)

    return binary if signature.task == "binary" else multiclass


def hour(at: float) -> str:
    """Return the partition of a moment: `date=.../hour=...`."""
    return datetime.fromtimestamp(at, UTC).strftime("date=%Y-%m-%d/hour=%H")
