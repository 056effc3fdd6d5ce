"""Curves and tables of one model for people to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trilho.evaluation.metrics import Floats, Ints
from trilho.evaluation.results import CalibrationBin, Curve, ThresholdRow

POINTS = 200  # of a curve
CALIBRATION_BINS = 10
HISTOGRAM_BINS = 20
THRESHOLDS = tuple(i / 10 for i in range(1, 10))


def calibration(predicted: Floats, observed: Floats) -> list[CalibrationBin]:
    """Compare prediction (n,) and truth (n,) in up to ten bins of equally many rows.

    Rows of equal prediction share a bin, so there are fewer bins where many are equal.
    """
    if len(predicted) == 0:
        return []
    inner = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    edges = np.unique(np.quantile(predicted, inner, method="inverted_cdf"))
    bins = np.searchsorted(edges, predicted, side="left")
    rows = np.bincount(bins)
    sums = (np.bincount(bins, weights=values) for values in (predicted, observed))
    return [
        CalibrationBin(rows=int(n), mean_predicted=float(p / n), observed=float(o / n))
        for n, p, o in zip(rows, *sums, strict=True)
        if n
    ]


def confusion(y: Ints, decided: Ints, k: int) -> list[list[int]]:
    """Count rows by truth (rows) and decision (columns)."""
    counts: list[list[int]] = np.bincount(y * k + decided, minlength=k * k).reshape(k, k).tolist()
    return counts


def thresholds(y: Ints, scores: Floats, chosen: float) -> list[ThresholdRow]:
    """Tell what deciding at 0.1, 0.2 ... 0.9 and at the chosen threshold would mean."""
    n, positives = len(y), int(y.sum())
    table = []
    for threshold in sorted({*THRESHOLDS, chosen}):
        decided = scores >= threshold
        selected, hits = int(decided.sum()), int(y[decided].sum())
        right = hits + (n - positives) - (selected - hits)
        table.append(
            ThresholdRow(
                threshold=float(threshold),
                selected=selected / n,
                precision=hits / selected if selected else None,
                recall=hits / positives if positives else 0.0,
                f1=2 * hits / (selected + positives) if selected + positives else 0.0,
                accuracy=right / n,
            )
        )
    return table


def roc_and_precision_recall(y: Ints, scores: Floats) -> tuple[Curve, Curve] | None:
    """Return both curves, thinned to 200 points; None when a class has no row.

    ROC: false positive rate to true positive rate; precision-recall: recall to precision.
    """
    n, positives = len(y), int(y.sum())
    if positives in (0, n):
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), n - 1)  # of equal scores
    tp = np.cumsum(y[order])[last]
    selected = last + 1
    recall, precision = tp / positives, tp / selected
    false = (selected - tp) / (n - positives)
    roc = _thin(np.append(0.0, false), np.append(0.0, recall))
    return roc, _thin(recall, precision)


def _thin(x: Floats, y: Floats) -> Curve:
    """Keep the points nearest to equal steps along the curve, and both ends."""
    if len(x) > POINTS:
        along = np.cumsum(np.append(0.0, np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS - 1)))
        kept = np.unique(np.append(kept.clip(0, len(x) - 1), len(x) - 1))
        x, y = x[kept], y[kept]
    return Curve(x=x.round(6).tolist(), y=y.round(6).tolist())


def histogram(values: Floats, low: float, high: float) -> list[int]:
    """Count values in equal bins; what lies outside of the range is in the outermost ones."""
    if not low < high:
        high = low + 1.0
    counts: NDArray[np.intp] = np.histogram(values.clip(low, high), HISTOGRAM_BINS, (low, high))[0]
    found: list[int] = counts.tolist()
    return found
