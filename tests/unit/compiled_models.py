"""Data and models that the tests of the compiled form share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trilho import compiled
from trilho.bundle import Column, Signature
from trilho.training import proof
from trilho.training.columns import from_frame
from trilho.training.compile import compile_model

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
    model: Any, frame: pd.DataFrame, task: str, folder: Path, positive: int = 1
) -> tuple[float, compiled.CompiledModel]:
    """Fit, compile, load, prove on other rows; return the largest difference and the form."""
    model.fit(frame, target(frame, task))
    signature = signature_of(frame, task, positive)
    compile_model(model, signature, folder)
    form = compiled.load(folder)
    return check(model, form, frame, signature), form


def check(
    model: Any, form: compiled.CompiledModel, frame: pd.DataFrame, signature: Signature
) -> float:
    fresh = table(300, seed=99, missing=0.0 if not frame.isna().any().any() else 0.1)
    fresh = fresh[list(frame.columns)]
    columns = from_frame(fresh, signature)
    return proof.prove(model, form, fresh, columns, signature, signature.threshold)[0]
