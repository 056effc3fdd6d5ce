"""One model on the frozen hold-out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trilho import config
from trilho.errors import RejectedError
from trilho.evaluation import bootstrap, curves
from trilho.evaluation.fairness import GAPS, rates
from trilho.evaluation.importance import (
    IMPORTANCE_ROWS,
    STRENGTH_ROWS,
    permutation,
    single_feature,
)
from trilho.evaluation.metrics import Floats, metrics, point
from trilho.evaluation.results import PRIMARY, Estimate, Evaluation, Fairness, Importance, Slice
from trilho.evaluation.slices import split

Rows = NDArray[np.intp]
Ids = Sequence[str] | NDArray[Any] | pd.Index | None


def evaluate(
    settings: config.Evaluation,
    *,
    task: str,
    y: NDArray[Any],
    scores: NDArray[Any],
    frame: pd.DataFrame,
    ids: Ids = None,
    threshold: float | None = None,
    classes: Sequence[Any] | None = None,
    predict: Callable[[pd.DataFrame], NDArray[Any]] | None = None,
    features: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate one model on the hold-out rows.

    Parameters
    ----------
    settings
        Resamples, confidence, slices, fairness columns, seed.
    task
        `binary`, `multiclass` or `regression`.
    y : (n,)
        Truth. Binary: 1 for the positive class, else 0; multiclass: index into `classes`.
    scores : (n,) or (n, k)
        Binary: probability of the positive class; multiclass: probability of each class;
        regression: the predicted value.
    frame : n rows
        The raw hold-out rows; must hold the columns named by `settings`, may hold more.
    ids : (n,)
        Row names, used to make the result independent of the order of the rows.
    threshold
        Binary: the positive class is decided from this score on; 0.5 when left out.
    classes
        Names of the classes.
    predict
        Takes rows of `frame[features]`, returns scores like `scores`; without it no permutation
        importance is computed.
    features
        The columns that the model sees; all columns of `frame` when left out.

    Returns
    -------
    Evaluation
        Deterministic for equal arguments, whatever the order of rows or the number of cores.

    Raises
    ------
    RejectedError
        The model gave missing or infinite scores, probabilities outside 0 to 1, or too few scores.
    UsageError
        `settings` name a column that `frame` does not have.
    """
    y, scores = checked(task, y, scores, ids, "The candidate")
    at = 0.5 if threshold is None else threshold
    order = canonical(ids, y, scores)
    y, scores = y[order], scores[order]
    columns = [str(c) for c in (frame.columns if features is None else features)]
    binary, k = task == "binary", 1 if scores.ndim == 1 else scores.shape[1]
    decided = (scores >= at).astype(np.intp) if binary else scores.reshape(len(y), k).argmax(axis=1)
    top = scores.max(axis=1) if task == "multiclass" else scores
    low, high = 0.0, 1.0
    if task == "regression":
        low, high = (float(v) for v in np.quantile(y - scores, (0.001, 0.999)))

    def important() -> list[Importance]:
        if predict is None:
            return []
        return permutation(
            predict,
            frame.iloc[order[:IMPORTANCE_ROWS]][columns],
            task=task,
            y=y[:IMPORTANCE_ROWS],
            threshold=at,
            rng=np.random.default_rng(seed(settings, "importance")),
        )

    def strong() -> dict[str, float]:
        rows = frame.iloc[order[:STRENGTH_ROWS]]
        return single_feature(rows, columns, task, y[:STRENGTH_ROWS], k)

    with bootstrap.at_once() as pool:  # the longest first
        importance, strength = pool.submit(important), pool.submit(strong)
        slices = pool.submit(_slices, settings, task, y, scores, frame, order, at)
        whole = pool.submit(estimates, settings, task, y, scores, at)
        curve = curves.roc_and_precision_recall(y, scores) if binary else None
        return Evaluation(
            task=task,
            primary=PRIMARY[task],
            rows=len(y),
            resamples=settings.resamples,
            confidence=settings.confidence,
            classes=None if classes is None else [str(c) for c in classes],
            threshold=at if binary else None,
            fairness=list(_fairness(settings, y, decided == 1, frame, order)) if binary else [],
            calibration=curves.calibration(
                top,
                (decided == y).astype(np.float64) if task == "multiclass" else y.astype(np.float64),
            ),
            confusion=None
            if task == "regression"
            else curves.confusion(y, decided, 2 if binary else k),
            thresholds=curves.thresholds(y, scores, at) if binary else [],
            roc=curve[0] if curve else None,
            precision_recall=curve[1] if curve else None,
            score_histogram=curves.histogram(
                y - scores if task == "regression" else top, low, high
            ),
            score_range=[low, high],
            metrics=whole.result(),
            slices=slices.result(),
            importance=importance.result(),
            single_feature=strength.result(),
        )


def estimates(
    settings: config.Evaluation, task: str, y: NDArray[Any], scores: Floats, threshold: float
) -> dict[str, Estimate]:
    """Return every metric of the rows with its interval."""
    drawn = bootstrap.draw(
        lambda rows: [metrics(task, y[rows], scores[rows], threshold)],
        len(y),
        resamples=settings.resamples,
        seed=seed(settings, "all"),
        strata=None if task == "regression" else y,
    )
    values = point(metrics(task, y, scores, threshold), len(y))
    return {
        name: bootstrap.estimate(
            name, value, drawn.values[0][name], drawn.scale, settings.confidence
        )
        for name, value in values.items()
    }


def _slices(
    settings: config.Evaluation,
    task: str,
    y: NDArray[Any],
    scores: Floats,
    frame: pd.DataFrame,
    order: Rows,
    threshold: float,
) -> list[Slice]:
    def judge(group: tuple[str, str, Rows]) -> Slice:
        label, column, own = group
        truth, given = y[own], scores[own]

        def build(rows: Rows) -> Any:
            return [metrics(task, truth[rows], given[rows], threshold)]

        drawn = slice_draws(settings, build, task, truth, f"{column}={label}")
        values = point(metrics(task, truth, given, threshold), len(own))
        return Slice(
            column=column,
            label=label,
            rows=len(own),
            positives=int(truth.sum()) if task == "binary" else None,
            metrics={
                name: bootstrap.estimate(
                    name, value, drawn.values[0][name], drawn.scale, settings.confidence
                )
                for name, value in values.items()
            },
        )

    return bootstrap.together(judge, slices(settings, frame, order))


def slices(
    settings: config.Evaluation, frame: pd.DataFrame, order: Rows
) -> Iterable[tuple[str, str, Rows]]:
    """Yield label, column and row numbers (in `order`'s counting) of each slice."""
    for by in settings.slices:
        groups = split(frame, by).take(order)
        for label, rows in zip(groups.labels, groups.rows(), strict=True):
            yield label, groups.column, rows


def slice_draws(
    settings: config.Evaluation,
    build: Callable[[Rows], Any],
    task: str,
    truth: NDArray[Any],
    name: str,
) -> bootstrap.Draws:
    """Draw the metrics of one slice; there may be hundreds, so it takes fewer resamples."""
    return bootstrap.draw(
        build,
        len(truth),
        resamples=min(settings.resamples, bootstrap.SLICE_RESAMPLES),
        seed=seed(settings, name),
        strata=None if task == "regression" else truth,
        cap=bootstrap.SLICE_ROWS,
        workers=1,  # slices are judged side by side already
    )


def _fairness(
    settings: config.Evaluation,
    y: NDArray[Any],
    decided: NDArray[np.bool_],
    frame: pd.DataFrame,
    order: Rows,
) -> Iterable[Fairness]:
    for by in settings.fairness:
        groups = split(frame, by, "fairness").take(order)
        found = rates(
            groups,
            y,
            [decided],
            resamples=settings.resamples,
            seed=seed(settings, f"fairness {groups.column}"),
        )[0]
        gaps = {
            gap: bootstrap.estimate(
                gap, found.gaps[gap], found.draws[gap], 1.0, settings.confidence
            )
            for gap in GAPS
        }
        yield Fairness(
            column=groups.column,
            groups=found.groups,
            selection_rate_gap=gaps["selection_rate_gap"],
            true_positive_rate_gap=gaps["true_positive_rate_gap"],
        )


def seed(settings: config.Evaluation, purpose: str) -> list[int]:
    """Return the seed of one purpose, so that no two share their random numbers."""
    return [settings.seed, crc32(purpose.encode())]


def canonical(ids: Ids, *values: NDArray[Any]) -> Rows:
    """Return a random-looking order of the rows that does not depend on how they came.

    Rows are told apart by their name, or without names by their values (n,) or (n, k).
    """
    rows = len(values[0])
    keys = [column for value in values for column in value.reshape(rows, -1).T]
    if ids is not None:
        names = pd.Index(ids).astype(str).to_numpy(object)
        keys.append(pd.util.hash_array(names, categorize=False))
    order: Rows = np.lexsort(keys)
    return order[np.random.default_rng(rows).permutation(rows)]


def checked(
    task: str, y: NDArray[Any], scores: NDArray[Any], ids: Ids, who: str
) -> tuple[NDArray[Any], Floats]:
    """Return truth and scores as numbers, or refuse scores that are none."""
    y = np.asarray(y, np.float64 if task == "regression" else np.intp)
    scores = np.asarray(scores, np.float64)
    if len(scores) != len(y) or scores.ndim != (2 if task == "multiclass" else 1):
        raise RejectedError(
            f"{who} gave scores of shape {scores.shape} for {len(y)} rows of a {task} target.",
            hint="Check what the model's predict_proba or predict returns.",
        )
    by_row = scores.reshape(len(y), -1)
    bad = np.flatnonzero(~np.isfinite(by_row).all(axis=1))
    what = "missing or infinite scores"
    if not len(bad) and task != "regression":
        sums = by_row.sum(axis=1)
        off = (by_row < 0).any(axis=1) | (by_row > 1).any(axis=1)
        bad = np.flatnonzero(off | ((task == "multiclass") & (np.abs(sums - 1) > 1e-3)))
        what = "scores that are no probabilities"
    if len(bad):
        first = bad[0] if ids is None else np.asarray(ids)[bad[0]]
        raise RejectedError(
            f"{who} gave {what} for {len(bad)} of {len(y)} rows, the first is row {first}.",
            hint="Predict on that row by hand and look for missing or extreme inputs.",
        )
    return y, scores
