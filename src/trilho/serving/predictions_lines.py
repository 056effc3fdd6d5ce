"""What is kept of predictions: lines of JSON, column by column, without what is sensitive.

A line holds up to 1000 rows, of many small requests or of a piece of a large one. All but the model
are lists with an entry for each row, because names that are repeated in each row would be most of
the work and of the bytes:

    {"model": "credit_default", "version": "3", "digest": "sha256:...", "rows": 2,
     "time": ["2026-01-31T12:00:00.123Z", ...], "request_id": [...], "milliseconds": [0.61, ...],
     "entity": ["c-17", ...], "inputs": {"AGE": [24, 57], ...}, "score": [0.83, 0.12],
     "decision": [1, 0]}

`entity` holds the ids that the callers sent, and is null where the model has none; `decision` is
null for a regression. The lines are written by orjson, which takes numpy's arrays as they are.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from trilho.bundle import Signature
from trilho.errors import UsageError, nearest
from trilho.serving.columns import EPOCH, Array, Batch, Columns
from trilho.serving.predictor import Identity, Prediction
from trilho.serving.settings import Keeping

# A line's rows at most: nothing that is encoded at once may hold up the rest for long.
PIECE = 1000
HASH_BYTES = 16
FIRST = datetime(1, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, tzinfo=UTC)
MILLISECONDS = [f".{i:03d}Z" for i in range(1000)]

Values = list[Any]
Doubtful = Callable[[Prediction], Sequence[int] | Array]  # to rows


class Kept(NamedTuple):
    """A prediction to keep.

    Attributes
    ----------
    prediction, request_ids, sizes, seconds, at
        As in the service's `Finished`.
    rows
        Which rows; None: all.
    """

    prediction: Prediction
    request_ids: list[str]
    sizes: list[int]
    seconds: list[float]
    at: float
    rows: Array | None = None

    def size(self) -> int:
        return self.prediction.batch.rows if self.rows is None else len(self.rows)


def _cut(kept: Kept) -> Kept:
    """Return the rows that are kept as a prediction of their own."""
    rows = kept.rows
    if rows is None:
        return kept
    batch, scores, decisions = kept.prediction
    cut = Batch(
        {name: values[rows] for name, values in batch.columns.items()},
        len(rows),
        batch.matrix[:, rows],
        None if batch.ids is None else [batch.ids[i] for i in rows],
    )
    chosen = None if decisions is None else [decisions[i] for i in rows]
    part = kept._replace(prediction=Prediction(cut, scores[rows], chosen), rows=None)
    if len(kept.sizes) == 1:
        return part._replace(sizes=[len(rows)])
    requests = np.repeat(np.arange(len(kept.sizes)), kept.sizes)[rows].tolist()
    return part._replace(
        request_ids=[kept.request_ids[i] for i in requests],
        sizes=[1] * len(requests),
        seconds=[kept.seconds[i] for i in requests],
    )


def _joined(arrays: list[Array], axis: int) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)


def _repeated(values: Values, times: list[int]) -> Values | orjson.Fragment:
    """What is true of several rows, once for each of them."""
    if sum(times) == len(values):
        return values
    parts = [(orjson.dumps(value) + b",") * n for value, n in zip(values, times, strict=True)]
    return orjson.Fragment(b"[%b]" % b"".join(parts)[:-1])


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
        sensitive = hidden(signature, options)
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
        """Yield the lines of one prediction, of any number of rows."""
        count = kept.size()
        if count <= PIECE:
            yield self.join([kept])
            return
        chosen = np.arange(count) if kept.rows is None else kept.rows
        for start in range(0, count, PIECE):
            yield self.join([kept._replace(rows=chosen[start : start + PIECE])])

    def join(self, many: list[Kept]) -> bytes:
        """Return one line of several predictions, with its end."""
        identity = self._identity
        many = [_cut(kept) for kept in many]
        batches = [kept.prediction.batch for kept in many]
        decisions = [kept.prediction.decisions for kept in many]
        rows = [batch.rows for batch in batches]
        sizes = list(chain.from_iterable(kept.sizes for kept in many))
        request_ids = list(chain.from_iterable(kept.request_ids for kept in many))
        seconds = chain.from_iterable(kept.seconds for kept in many)
        entities = self._entities(batches) if self._entity else None
        line = {
            "model": identity.name,
            "version": identity.version,
            "digest": identity.digest,
            "rows": sum(rows),
            "time": _repeated([self._time(kept.at) for kept in many], rows),
            "request_id": _repeated(request_ids, sizes),
            "milliseconds": _repeated([round(each * 1000, 3) for each in seconds], sizes),
            # ids may be whole numbers of any size, which orjson does not write
            "entity": orjson.Fragment(self._encode(entities)),
            "inputs": self._inputs(batches),
            # orjson takes arrays in C order only; a model's may be a column of a wider one
            "score": np.ascontiguousarray(_joined([k.prediction.scores for k in many], 0)),
            "decision": None if decisions[0] is None else list(chain.from_iterable(decisions)),  # type: ignore[arg-type]
        }
        return orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)

    def _entities(self, batches: list[Batch]) -> Values:
        entities: Values = []
        for batch in batches:
            entities += [None] * batch.rows if batch.ids is None else batch.ids
        return self._hashes(entities) if self._hash_entity else entities

    def _inputs(self, batches: list[Batch]) -> dict[str, Values | Array]:
        matrix = np.ascontiguousarray(_joined([batch.matrix for batch in batches], 1))
        inputs: dict[str, Values | Array] = {}
        with np.errstate(invalid="ignore"):
            whole = matrix.astype(np.int64)
        # what is whole is written without a point, in a sixth of the time
        sound = np.logical_and.reduce(whole == matrix, axis=1).tolist()
        for name, i in self._numbers["integer"]:
            inputs[name] = whole[i] if sound[i] else [_whole(v) for v in matrix[i].tolist()]
        for name, i in self._numbers["number"]:
            inputs[name] = whole[i] if sound[i] else matrix[i]
        for name, i in self._numbers["boolean"]:
            inputs[name] = [v != 0 if v == v else None for v in matrix[i].tolist()]
        for names, text in ((self._dates, _dates), (self._texts, _same)):
            for name in names:
                values = _joined([batch.columns[name] for batch in batches], 0).tolist()
                inputs[name] = text(values)
        for name in self._hashed:
            values = inputs[name]
            inputs[name] = self._hashes(values if isinstance(values, list) else values.tolist())
        return inputs

    def weight(self, kept: Kept) -> int:
        """Return about how many bytes of text there are."""
        columns = kept.prediction.batch.columns
        return sum(len(value) for name in self._texts for value in columns[name].tolist() if value)

    def _hashes(self, values: Values) -> list[str | None]:
        """With a key, because who knows the few possible values could try them all."""
        assert self._key is not None
        found: list[str | None] = []
        for value in values:
            if value is None or value != value:
                found.append(None)
            else:
                if isinstance(value, float) and value.is_integer():
                    value = int(value)  # the same whatever stands beside it
                digest = hmac.digest(self._key, self._encode(value), "sha256")
                found.append(digest[:HASH_BYTES].hex())
        return found

    def _time(self, at: float) -> str:
        second, known = self._second
        if int(at) != second:
            known = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
            self._second = (int(at), known)
        return known + MILLISECONDS[int(at * 1000) % 1000]


def hidden(signature: Signature, options: Keeping) -> set[str]:
    """The columns that are sensitive: by the schema that the model was trained with, or here."""
    return {*(signature.sensitive or ()), *options.sensitive}


def _whole(value: float) -> int | None:
    return int(value) if value == value else None


def _same(values: Values) -> Values:
    return values


def _dates(days: Values) -> Values:
    texts: Values = []
    for value in days:
        if value != value:
            texts.append(None)
            continue
        try:
            moment = EPOCH + timedelta(days=value)
        except OverflowError:  # a zone can lead out of the years that there are
            moment = FIRST if value < 0 else LAST
        texts.append(moment.date().isoformat() if value % 1 == 0 else moment.isoformat())
    return texts


def doubtful(signature: Signature, band: float) -> Doubtful | None:
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
