"""Train: from a dataset to a sealed bundle."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trilho import bundle, compiled, config
from trilho.bundle import DatasetInfo, Manifest, Signature, canonical, sha256_bytes
from trilho.dataset import Dataset
from trilho.errors import UsageError
from trilho.evaluation.results import Evaluation, Measurements
from trilho.training import describe, proof
from trilho.training.card import write_card
from trilho.training.columns import Columns, from_frame, take
from trilho.training.compile import compile_model
from trilho.training.estimator import build, project_path
from trilho.training.idle import beside
from trilho.training.refused import CompileRefused
from trilho.training.scoring import Form, SklearnForm, predict

Tell = Callable[[str], None]
LIBRARIES = ("numpy", "scipy", "scikit-learn", "pandas", "treelite", "joblib")


@dataclass(frozen=True)
class Trained:
    """A sealed bundle and what is known of its making.

    Attributes
    ----------
    folder, digest, manifest, evaluation
        The bundle.
    scores : (hold-out rows,) or (hold-out rows, classes)
        Of the hold-out, by the form that will serve.
    measurements
        Measured on this machine with the form that will serve.
    search
        Each setting tried with its score; None without a search.
    """

    folder: Path
    digest: str
    manifest: Manifest
    evaluation: Evaluation
    scores: NDArray[np.float64]
    measurements: Measurements
    search: list[dict[str, Any]] | None


def train(
    settings: config.Pipeline,
    dataset: Dataset,
    held: NDArray[np.bool_],
    folder: Path,
    *,
    fingerprint: str,
    lock: str | None,
    sensitive: Collection[str] = (),
    tell: Tell = lambda _: None,
) -> Trained:
    """Fit, compile, prove, evaluate and seal.

    Parameters
    ----------
    settings, dataset
        What to train, and on what.
    held : (rows,)
        The rows that are held out, see `trilho.dataset.holdout`.
    folder
        The bundle's folder, empty or new.
    fingerprint, lock
        Digests of the inputs and of the lock file.
    tell
        Called with a line for people at each step.

    Raises
    ------
    UsageError
        The model cannot be made, or cannot be fitted to these data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty.", hint="Train into a new folder.")
    x, y = dataset.x(), dataset.y()
    x_train, y_train = x[~held], y[~held]
    sketch = partial(describe.sketches, x_train, dataset.kinds)
    with beside(sketch, gently=True) as sketches:
        model, threshold, parameters, tried = _fit(settings, dataset, x_train, y_train, tell)
    signature = describe.signature(dataset, x_train, threshold, sensitive)
    (folder / "signature.json").write_bytes(canonical(signature))
    with project_path():
        joblib.dump(model, folder / "model.joblib")

    x_held = x[held]
    del x
    columns = from_frame(x_held, signature)
    served = _serving_form(model, folder, x_held, columns, signature, tell)
    tell("evaluating on the hold-out")
    found = _evaluate(settings, dataset, held, y[held], served, signature)
    _write(folder / "evaluation.json", canonical(found))
    golden = describe.golden(served.form, columns, served.scores, signature)
    _write(folder / "golden.json", canonical(golden))
    reference = describe.reference(len(x_train), sketches.result(), served.scores)
    _write(folder / "reference.json", canonical(reference))
    manifest = Manifest(
        name=settings.name,
        task=dataset.task,
        fingerprint=fingerprint,
        dataset=DatasetInfo(digest=dataset.digest, rows=len(held), holdout_rows=int(held.sum())),
        lock=lock,
        split=sha256_bytes(settings.data.split.model_dump_json().encode()),
        serving="compiled" if served.reason is None else "sklearn",
        serving_reason=served.reason,
        largest_difference=served.largest,
        metrics={name: e.value for name, e in found.metrics.items()},
        parameters=parameters,
        environment=_environment(),
        files={},
    )
    _write(folder / "model_card.md", write_card(settings, manifest, signature, found).encode())
    digest = bundle.seal(folder, manifest)
    return Trained(
        folder=folder,
        digest=digest,
        manifest=bundle.read_manifest(folder)[0],
        evaluation=found,
        scores=served.scores,
        measurements=measure(served.form, folder, columns),
        search=tried,
    )


# ── fitting ───────────────────────────────────────────────────────────────────────────────────────


def _fit(
    settings: config.Pipeline,
    dataset: Dataset,
    x: pd.DataFrame,
    y: NDArray[Any],
    tell: Tell,
) -> tuple[Any, float | None, dict[str, Any], list[dict[str, Any]] | None]:
    """Return the fitted model, its threshold, its parameters, and the settings searched."""
    model = settings.model
    estimator = build(model, dataset.kinds, dataset.task)
    parameters: dict[str, Any] = dict(model.params)
    tried = None
    with project_path():
        try:
            if model.search is not None:
                from trilho.training.search import plain, search

                tell(f"searching {model.search.iterations} settings")
                best, tried = search(estimator, x, y, dataset.task, dataset.positive, model, tell)
                estimator.set_params(**best)
                parameters |= {name: plain(value) for name, value in best.items()}
            threshold = None
            if dataset.task == "binary":
                from trilho.training.threshold import choose

                if isinstance(model.threshold, config.Threshold):
                    tell(f"choosing the threshold that maximises {model.threshold.maximise}")
                threshold = choose(estimator, x, y, dataset.positive, model)
            tell(f"fitting on {len(x):,} rows")
            return estimator.fit(x, y), threshold, parameters, tried
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"The model cannot be fitted to {dataset.path}: {_first_line(error)}",
                hint="See the model's own rules for missing values and text; --debug shows where.",
            ) from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# ── the serving form ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Served:
    form: Form
    scores: NDArray[np.float64]  # of the hold-out
    largest: float | None
    reason: str | None  # why it is scikit-learn


def _serving_form(
    model: Any,
    folder: Path,
    frame: pd.DataFrame,
    columns: Columns,
    signature: Signature,
    tell: Tell,
) -> _Served:
    """Compile and prove; or say why scikit-learn serves."""
    target = folder / compiled.FOLDER
    try:
        tell("compiling the serving form")
        compile_model(model, signature, target)
        form = compiled.load(target)
        tell(f"proving it on {len(frame):,} hold-out rows and on edge rows")
        largest, scores = proof.prove(model, form, frame, columns, signature, signature.threshold)
        return _Served(form, scores, largest, None)
    except CompileRefused as refused:
        for path in target.glob("*"):
            path.unlink()
        if target.exists():
            target.rmdir()
        reason = f"CompileRefused: {refused}"
        tell(f"scikit-learn will serve it: {refused}")
        try:
            scores = predict(model, frame, signature)
        except ValueError as error:
            raise UsageError(
                f"The model cannot score the hold-out rows: {_first_line(error)}",
                hint="Rows to come may hold such values, too; see handle_unknown of encoders.",
            ) from error
        return _Served(SklearnForm(model, signature), scores, None, reason)


def _evaluate(
    settings: config.Pipeline,
    dataset: Dataset,
    held: NDArray[np.bool_],
    y: NDArray[Any],
    served: _Served,
    signature: Signature,
) -> Evaluation:
    from trilho.evaluation import evaluate

    return evaluate(
        settings.evaluation,
        task=dataset.task,
        y=coded(y, signature),
        scores=served.scores,
        frame=dataset.frame[held],
        ids=dataset.ids[held],
        threshold=signature.threshold,
        classes=dataset.classes,
        predict=lambda frame: served.form.predict(from_frame(frame, signature)),
        features=dataset.features,
    )


def coded(y: NDArray[Any], signature: Signature) -> NDArray[Any]:
    """Return the truth as `evaluate` takes it: 1 for positive, the class's index, or the number."""
    if signature.task == "regression":
        return np.asarray(y, np.float64)
    if signature.task == "binary":
        return np.asarray(y == signature.positive, np.int64)
    place = {label: i for i, label in enumerate(signature.classes or [])}
    return np.array([place[label] for label in y.tolist()], np.int64)


def measure(
    form: Form, folder: Path, columns: Columns, champion: tuple[Form, Columns] | None = None
) -> Measurements:
    """Time one row and a batch of up to 1,000, in medians; champion and candidate in one run.

    Parameters
    ----------
    form, folder
        The form that will serve, and the bundle that it stands in.
    columns
        Hold-out rows.
    champion
        The form that serves today, and one row as it takes it.
    """
    one, many = take(columns, slice(0, 1)), take(columns, slice(0, 1000))
    rows = len(next(iter(many.values())))
    served = folder / compiled.FOLDER
    files = list(served.iterdir()) if served.is_dir() else [folder / "model.joblib"]
    return Measurements(
        row_microseconds=_median_seconds(form, one) * 1e6,
        batch_microseconds=_median_seconds(form, many) * 1e6 / rows,
        model_bytes=sum(path.stat().st_size for path in files),
        champion_row_microseconds=_median_seconds(*champion) * 1e6 if champion else None,
    )


def _median_seconds(form: Form, columns: Columns, seconds: float = 0.05) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 2000):
        began = time.perf_counter()
        form.predict(columns)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()}-{platform.machine()}".lower(),
        **{name: version(name) for name in LIBRARIES},
    }
