"""What the model leans on, and what each column tells alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trilho.evaluation.bootstrap import together
from trilho.evaluation.metrics import Floats, Ints, Ranked, metrics, point
from trilho.evaluation.results import METRICS, PRIMARY, Importance

REPEATS = 3
IMPORTANCE_ROWS = 2_000
STRENGTH_ROWS = 20_000
FEW_VALUES = 30  # a number with no more values than this may also be a code
FOLDS = 5


def permutation(
    predict: Callable[[pd.DataFrame], NDArray[Any]],
    frame: pd.DataFrame,
    *,
    task: str,
    y: Ints | Floats,
    threshold: float,
    rng: np.random.Generator,
) -> list[Importance]:
    """Measure how much of the primary metric goes when one column is shuffled (Breiman 2001).

    Parameters
    ----------
    predict
        Takes rows of `frame`, returns scores.
    frame
        The columns that the model sees; a few thousand rows are enough.
    task, y, threshold
        As `evaluate` takes them.
    rng
        Shuffles.

    Returns
    -------
    list of Importance
        The strongest first; positive where the metric gets worse.
    """
    name = PRIMARY[task]
    sign = 1 if METRICS[task][name] else -1
    rows = len(frame)

    def score(scores: NDArray[Any], i: int) -> float:
        own = np.asarray(scores, np.float64)[i * rows : (i + 1) * rows]
        return point(metrics(task, y, own, threshold), rows)[name]

    # one call for all repeats: a pipeline's cost is mostly per call
    repeated = frame.iloc[np.tile(np.arange(rows), REPEATS)].reset_index(drop=True)
    shuffles = {
        column: np.concatenate([rng.permutation(rows) for _ in range(REPEATS)])
        for column in frame.columns
    }

    def importance(column: str) -> Importance:
        mixed = repeated.copy(deep=False)
        mixed[column] = frame[column].take(shuffles[column]).array
        scores = predict(mixed)
        losses = sign * np.array([whole - score(scores, i) for i in range(REPEATS)])
        return Importance(
            feature=str(column), mean=float(losses.mean()), sd=float(losses.std(ddof=1))
        )

    # a thread a column; more threads within a column would only wait for each other
    with threadpool_limits(1):
        whole = score(predict(frame), 0)
        found = [] if np.isnan(whole) else together(importance, frame.columns)
    return sorted(found, key=lambda i: -i.mean)


def single_feature(
    frame: pd.DataFrame, columns: Sequence[str], task: str, y: Ints | Floats, k: int
) -> dict[str, float]:
    """Tell how well each column ranks the target all by itself: a leak shows as nearly 1.

    Classification: ROC AUC in the better direction (multiclass: the mean over classes); regression:
    |Spearman's correlation|. A missing number ranks below all others. Text, and numbers of at most
    30 values, are also ranked by their mean target over the other folds of rows, so that codes in
    no order count, while a name that each row has for itself does not.

    Parameters
    ----------
    frame
        The rows, in an order that says nothing about the target.
    columns
        The columns to look at.
    task, y
        As `evaluate` takes them.
    k
        Number of classes; 2 for binary.
    """
    targets: list[Floats] = [np.asarray(y, np.float64)]
    if task == "multiclass":
        targets = [(np.asarray(y) == c).astype(np.float64) for c in range(k)]
        targets = [t for t in targets if 0 < t.sum() < len(t)]
    if not targets or any(np.all(t == t[0]) for t in targets):
        return {}
    found = {}
    for column in columns:
        values = frame[column]
        ranks = _ranks(values)
        codes, uniques = pd.factorize(values, use_na_sentinel=False)
        strengths = []
        for target in targets:
            tried = [] if ranks is None else [_strength(ranks, target, task)]
            if ranks is None or len(uniques) <= FEW_VALUES:
                tried.append(_strength(_mean_elsewhere(codes, target), target, task))
            strengths.append(max(tried))
        found[str(column)] = float(np.mean(strengths))
    return found


def _ranks(values: pd.Series[Any]) -> Floats | None:
    """Return a number column as ranks, missing lowest; None for text."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return None
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        return np.asarray(values.rank(na_option="top"), np.float64)
    return None


def _mean_elsewhere(codes: NDArray[np.intp], target: Floats) -> Floats:
    """Return for each row the mean target of its value over the other folds' rows."""
    fold = np.arange(len(codes)) % FOLDS
    width = int(codes.max()) + 1
    cells = fold * width + codes
    shape = (FOLDS, width)
    sums = np.bincount(cells, weights=target, minlength=FOLDS * width).reshape(shape)
    rows = np.bincount(cells, minlength=FOLDS * width).reshape(shape)
    # a value unseen elsewhere gets the mean of those folds: no information
    others, seen = sums.sum(axis=0) - sums, rows.sum(axis=0) - rows
    prior = others.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    # one row's worth of prior keeps rare values from the extremes
    means: Floats = ((others + prior) / (seen + 1))[fold, codes]
    return means


def _strength(score: Floats, target: Floats, task: str) -> float:
    if task != "regression":
        ranked = Ranked.of(target == 1, score)
        area = float(ranked.auc(np.ones((1, len(score)), np.uint8))[0])
        return max(area, 1 - area)
    a, b = (pd.Series(v).rank().to_numpy() for v in (score, target))
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return abs(float(np.corrcoef(a, b)[0, 1]))
