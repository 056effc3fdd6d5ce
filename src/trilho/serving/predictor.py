"""The model as the service holds it: loaded, proven, and asked for predictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Struct

from trilho import bundle
from trilho.bundle import Golden, Manifest, Signature
from trilho.errors import DataError, IntegrityError, UsageError
from trilho.serving.columns import Array, Batch, Columns
from trilho.serving.decode import Decoder
from trilho.serving.messages import BadInputError, TooLargeError

Label = str | int | float | bool
CARD = "model_card.md"
# How a model names the column that it refuses.
REFUSED = re.compile(r"""Column (['"])(.*?)\1 """)
MAX_ROWS = 100_000


class Model(Protocol):
    """Anything that turns columns into scores: (n,), or (n, classes) for multiclass."""

    def predict(self, columns: dict[str, Array]) -> Array: ...


class Identity(Struct, frozen=True, kw_only=True):
    """Which model answered."""

    name: str
    version: str | None
    digest: str


class Answer(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What `/invocations` answers, with one entry for each row.

    `predictions` are the golden rows' `expected`: the probability of the positive class, a list of
    probabilities in the order of the classes, or the value. A score that is no number is null.
    """

    predictions: list[Any]
    decisions: list[Label | None] | None = None  # the decided classes; absent for a regression
    model: Identity


class Prediction(NamedTuple):
    """Some rows, and what the model made of them."""

    batch: Batch
    scores: Array  # (rows,), or (rows, classes) for multiclass
    decisions: list[Label | None] | None


class Share(NamedTuple):
    """A request's rows of a prediction: all, or some of it if several are answered together."""

    prediction: Prediction
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


class Card(Struct, frozen=True, kw_only=True):
    """What `/model` tells of the model."""

    name: str
    version: str | None
    digest: str
    task: str
    serving: str
    target: str
    classes: list[Label] | None
    positive: Label | None
    threshold: float | None
    metrics: dict[str, float | None]
    environment: dict[str, str]
    columns: list[bundle.Column]
    card: str | None  # the model card, in Markdown


class Predictor:
    """A loaded model with its signature: from values to an answer. Threads may share it."""

    def __init__(
        self,
        model: Model,
        signature: Signature,
        manifest: Manifest,
        digest: str,
        version: str | None,
        *,
        card: str | None = None,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self.model = model
        self.signature = signature
        self.manifest = manifest
        self.max_rows = max_rows
        self.identity = Identity(name=manifest.name, version=version, digest=digest)
        self.card = Card(
            name=manifest.name,
            version=version,
            digest=digest,
            task=manifest.task,
            serving=manifest.serving,
            target=signature.target,
            classes=signature.classes,
            positive=signature.positive,
            threshold=signature.threshold,
            metrics=manifest.metrics,
            environment=manifest.environment,
            columns=signature.columns,
            card=card,
        )
        self.columns = Columns(signature)
        self.decoder = Decoder(self.columns, max_rows)
        self._decide = _decider(signature)
        self._encode = msgspec.json.Encoder().encode
        self.golden_range = (0.0, 1.0)  # of the scores that `check` saw

    def predict(self, batch: Batch) -> Prediction:
        """Predict some rows.

        Raises
        ------
        BadInputError
            The model was told to refuse one of the rows: which, and the field if that is told.
        """
        try:
            scores = self.model.predict(batch.columns)
        except IntegrityError:
            raise
        except DataError as error:  # such as a category that the model was told to refuse
            named = REFUSED.match(error.message)
            field = named[2] if named is not None and named[2] in self.columns.names else None
            row = self._first_refused(batch)
            raise BadInputError(error.message, row, field, kind="refused") from None
        return Prediction(batch, scores, self._decide(scores))

    def _first_refused(self, batch: Batch) -> int:
        """Halve the rows until one is left: the first that the model refuses."""
        low, high = 0, batch.rows
        while high - low > 1:
            middle = (low + high) // 2
            try:
                part = {name: array[low:middle] for name, array in batch.columns.items()}
                self.model.predict(part)
                low = middle
            except DataError:
                high = middle
        return low

    def together(self, bodies: Sequence[bytes]) -> list[Share | None]:
        """Predict the records of several JSON bodies in one go, which costs little more than one.

        None for a body that has to be looked at by itself: one that is not as it should be, or has
        other columns. Models that only scikit-learn can serve may treat a row among others in
        another way than alone, so theirs are all looked at by themselves.
        """
        alone: list[Share | None] = [None] * len(bodies)
        if self.manifest.serving != "compiled":
            return alone
        rows: list[tuple[Any, ...]] = []
        places: list[tuple[int, int] | None] = []
        for body in bodies:
            start = len(rows)
            with suppress(BadInputError, TooLargeError):
                read = self.decoder.records(body)
                if read is not None and (not rows or len(read[0]) == len(rows[0])):
                    rows += read
            places.append((start, len(rows)) if len(rows) > start else None)
        try:
            prediction = self.predict(self.columns.from_rows(rows)) if rows else None
        except BadInputError:  # whose row that is, is told there
            return alone
        if prediction is None:
            return alone
        return [None if place is None else Share(prediction, *place) for place in places]

    def encode(self, prediction: Prediction, start: int = 0, stop: int | None = None) -> bytes:
        """Return the JSON of `/invocations` for some rows of a prediction."""
        _, scores, decisions = prediction
        return self._encode(
            Answer(
                predictions=scores[start:stop].tolist(),
                decisions=None if decisions is None else decisions[start:stop],
                model=self.identity,
            )
        )

    def check(self, golden: Golden) -> float:
        """Repeat the golden rows and return the largest difference.

        Raises
        ------
        IntegrityError
            This environment computes other numbers than the one that trained the model.
        """
        if not golden.rows:
            raise IntegrityError("The bundle holds no golden rows, so nothing proves this model.")
        try:
            scores = self.model.predict(self.decoder.read(msgspec.json.encode(golden.rows)).columns)
        except BadInputError as error:
            raise IntegrityError(
                f"Golden row {error.row} does not fit the signature: {error.message} "
                f"(field {error.field})."
            ) from None
        expected = np.array(golden.expected, dtype=np.float64)
        if scores.shape != expected.shape:
            raise IntegrityError(
                f"The golden rows give scores of shape {scores.shape}, expected {expected.shape}."
            )
        difference = np.abs(scores - expected)
        wrong = np.argwhere(~(difference <= golden.tolerance))  # NaN is wrong, too
        if len(wrong):
            place = tuple(wrong[0].tolist())
            made = self.manifest.environment
            raise IntegrityError(
                f"Golden row {place[0]} gives {scores[place]}, expected {expected[place]} within "
                f"{golden.tolerance}: this environment is not the one the model was proven in.",
                hint="Serve with these versions: "
                + ", ".join(f"{name} {version}" for name, version in sorted(made.items())),
            )
        self.golden_range = (float(expected.min()), float(expected.max()))
        return float(difference.max())


def load(
    folder: Path,
    manifest: Manifest,
    digest: str,
    version: str | None,
    *,
    max_rows: int = MAX_ROWS,
) -> Predictor:
    """Load the verified bundle in `folder` and repeat its golden rows.

    Raises
    ------
    UsageError
        The bundle is served by scikit-learn, which is not installed here.
    IntegrityError
        A golden row comes out differently.
    """
    signature = bundle.read_signature(folder)
    model: Model
    if manifest.serving == "compiled":
        from trilho import compiled

        model = compiled.load(folder)
    else:
        try:
            from trilho.serving.archive import Archive
        except ImportError as error:
            raise UsageError(
                f"Model {manifest.name} is served by scikit-learn "
                f"({manifest.serving_reason or 'it could not be compiled'}), and {error.name} is "
                "not installed here.",
                hint="Use the larger image: docker build --target sklearn .",
            ) from None
        model = Archive(folder / "model.joblib", signature)
    card = folder / CARD
    predictor = Predictor(
        model,
        signature,
        manifest,
        digest,
        version,
        card=card.read_text("utf-8", "replace") if card.is_file() else None,
        max_rows=max_rows,
    )
    predictor.check(bundle.read_golden(folder))
    return predictor


def _decider(signature: Signature) -> Callable[[Array], list[Label | None] | None]:
    """Return what turns scores into classes; a score that is no number decides nothing."""
    classes = signature.classes or []

    def multiclass(scores: Array) -> list[Label | None]:
        sound: list[bool] = np.all(np.isfinite(scores), axis=1).tolist()
        best = scores.argmax(axis=1).tolist()
        return [classes[i] if ok else None for i, ok in zip(best, sound, strict=True)]

    positive = signature.positive
    negative = next((label for label in classes if label != positive), None)
    threshold = 0.5 if signature.threshold is None else signature.threshold

    def binary(scores: Array) -> list[Label | None]:
        return [
            positive if p >= threshold else negative if p < threshold else None
            for p in scores.tolist()
        ]

    return {"binary": binary, "multiclass": multiclass}.get(signature.task, lambda _: None)
