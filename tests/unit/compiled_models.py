"""Data and models that the tests of the compiled form share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trilho import compiled
from trilho.bundle import Column, Signature
from trilho.errors import DataError
from trilho.training import proof
from trilho.training.columns import from_frame, take, to_frame
from trilho.training.compile import compile_model
from trilho.training.scoring import predict

TEXTS = ["red", "green", "blue", "", "naïve ☃", 'a,b"c', " red"]


def table(rows: int = 400, seed: int = 0, missing: float = 0.1) -> pd.DataFrame:
    """Numbers of all sizes, booleans, texts and dates, with gaps."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "small": rng.normal(size=rows),
            "large": rng.lognormal(8, 3, size=rows),
            "count": rng.integers(-3, 9, size=rows).astype(float),
            "whole": rng.integers(0, 5, size=rows),
            "flag": rng.random(rows) < 0.3,
            "colour": pd.Series(
                rng.choice(TEXTS, size=rows, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.04, 0.01]), dtype="str"
            ),
            "name": pd.Series([f"n{i}" for i in rng.integers(0, 150, size=rows)], dtype="str"),
            "day": pd.Timestamp("2024-01-01")
            + pd.to_timedelta(rng.integers(0, 700, size=rows), unit="D"),
        }
    )
    frame["day"] = frame["day"].astype("datetime64[us]")
    for name in ("small", "large", "count", "colour", "day") if missing else ():
        frame.loc[rng.random(rows) < missing, name] = None
    return frame


NUMBERS = ["small", "large", "count", "whole", "flag"]
KINDS = {
    "small": "number",
    "large": "number",
    "count": "number",
    "whole": "integer",
    "flag": "boolean",
    "colour": "string",
    "name": "string",
    "day": "date",
}


def target(frame: pd.DataFrame, task: str, seed: int = 1) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    value = (
        frame["small"].fillna(0)
        + 0.3 * frame["count"].fillna(1)
        + frame["flag"]
        + (frame["colour"] == "red")
        + 0.1 * frame["whole"]
        + rng.normal(0, 0.7, len(frame))
    ).to_numpy(float)
    if task == "regression":
        return value
    cuts = [0.8] if task == "binary" else [0.2, 1.4]
    return np.digitize(value, cuts)


def signature_of(frame: pd.DataFrame, task: str, positive: int = 1) -> Signature:
    classes: list[Any] | None = {"binary": [0, 1], "multiclass": [0, 1, 2]}.get(task)
    return Signature(
        columns=[Column(name=n, kind=KINDS[n]) for n in frame.columns],
        target="y",
        task=task,
        classes=classes,
        positive=positive if task == "binary" else None,
        threshold=0.5 if task == "binary" else None,
    )


def prove(
    model: Any,
    frame: pd.DataFrame,
    task: str,
    folder: Path,
    positive: int = 1,
    y: np.ndarray[Any, Any] | None = None,
) -> tuple[float, compiled.CompiledModel]:
    """Fit, compile, load, prove on other rows; return the largest difference and the form."""
    model.fit(frame, target(frame, task) if y is None else y)
    signature = signature_of(frame, task, positive)
    compile_model(model, signature, folder)
    form = compiled.load(folder)
    return check(model, form, frame, signature), form


def check(
    model: Any, form: compiled.CompiledModel, frame: pd.DataFrame, signature: Signature
) -> float:
    fresh = table(200, seed=99, missing=0.0 if not frame.isna().any().any() else 0.1)
    fresh = fresh[list(frame.columns)]
    columns = from_frame(fresh, signature)
    return proof.prove(model, form, fresh, columns, signature, signature.threshold)[0]


# ── wild rows ─────────────────────────────────────────────────────────────────────────────────────

WILD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 1e-300, 5e-324, 1e10, -3.0, 0.5, 2.0**53]
ODD = ["unknown", "\x00", "ß", "RED", "red\n", "\u202ered", "🏳️‍🌈", "e\u0301", "x" * 5000, "", None]


def wild(frame: pd.DataFrame, seed: int = 0, share: float = 0.15) -> pd.DataFrame:
    """Rows of a frame, as a service might get them, with wild values strewn in."""
    rng = np.random.default_rng(seed)
    rows = len(frame)
    found = {}
    for name, values in frame.items():
        some = rng.random(rows) < share
        if isinstance(values.dtype, pd.StringDtype):
            texts = values.astype(object).to_numpy(dtype=object, copy=True)
            texts[values.isna()] = None
            texts[some] = rng.choice(np.array(ODD, object), some.sum())
            found[name] = pd.Series(texts, dtype="str")
        elif values.dtype.kind == "M":
            found[name] = values.reset_index(drop=True).mask(some)
        else:
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
            numbers[some] = rng.choice(WILD, some.sum())
            found[name] = pd.Series(numbers)
    return pd.DataFrame(found)


class Agreement(NamedTuple):
    """What a model and its compiled form made of the same rows."""

    largest: float
    both_answer: int
    both_refuse: int
    only_form_refuses: int


def agree(
    model: Any, form: compiled.CompiledModel, frame: pd.DataFrame, signature: Signature
) -> Agreement:
    """Compare a model with its form on each row; fail if they differ silently.

    The form may refuse what scikit-learn answers, but never answer what scikit-learn refuses.
    """
    columns = from_frame(frame, signature)
    refused = np.array(
        [_refuses(lambda i=i: form.predict(_row(columns, i)), DataError) for i in range(len(frame))]
    )
    refusing = sum(
        _refuses(lambda i=i: _model(model, columns, i, signature), Exception)
        for i in np.flatnonzero(refused)
    )
    answered = take(columns, np.flatnonzero(~refused))
    count = int((~refused).sum())
    if not count:
        return Agreement(0.0, 0, refusing, int(refused.sum()) - refusing)
    given = form.predict(answered)
    expected = predict(model, to_frame(answered, signature), signature)
    single = np.concatenate([form.predict(_row(answered, i)) for i in range(count)])
    assert np.array_equal(given, single, equal_nan=True), "a row alone gets another number"
    largest = 0.0
    for scores in (given, single):
        for i in range(count):
            apart = proof.difference(expected[i : i + 1], scores[i : i + 1], signature.task)
            if apart > proof.TOLERANCE:  # where sums cancel, scikit-learn differs from itself
                alone = _model(model, answered, i, signature)
                own = proof.difference(expected[i : i + 1], alone, signature.task)
                assert apart <= 10 * own, f"row {i}: they differ by {apart}"
                apart = 0.0
            largest = max(largest, apart)
    return Agreement(largest, count, refusing, int(refused.sum()) - refusing)


def _row(columns: Any, i: int) -> Any:
    return take(columns, slice(i, i + 1))


def _model(model: Any, columns: Any, i: int, signature: Signature) -> Any:
    return predict(model, to_frame(_row(columns, i), signature), signature)


def _refuses(call: Callable[[], Any], refusal: type[Exception]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except refusal:
            return True
    return False
