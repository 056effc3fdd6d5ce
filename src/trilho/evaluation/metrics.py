"""Metrics of many weightings of the same rows at once.

A weighting says how often each row counts: all ones is the hold-out itself, a bootstrap resample is
another. A model's rows are sorted once; then each metric of each weighting is a matrix product or a
running sum over the sorted rows. The value of a weighting equals scikit-learn's metric on the rows
repeated that often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]
Weights = NDArray[np.uint8]  # (weightings, rows)

BINS = 10  # of the expected calibration error
EPSILON = float(np.finfo(np.float64).eps)


class Metrics(Protocol):
    """The metrics of one model on fixed rows."""

    def values(self, weights: Weights) -> dict[str, Floats]:
        """Return each metric's value for each weighting; NaN where it is not defined.

        Parameters
        ----------
        weights : (b, n)
            How often each of the n rows counts in each of the b weightings.

        Returns
        -------
        dict
            Metric name to values (b,).
        """


def metrics(task: str, y: Ints | Floats, scores: Floats, threshold: float = 0.5) -> Metrics:
    """Prepare the metrics of one model: the part that no weighting changes is done here, once.

    Parameters
    ----------
    task
        `binary`, `multiclass` or `regression`.
    y, scores
        As `evaluate` takes them.
    threshold
        Binary: the positive class is decided from this score on.
    """
    if task == "binary":
        return Binary(y, scores, threshold)
    if task == "multiclass":
        return Multiclass(y, scores)
    return Regression(np.asarray(y, np.float64), scores)


def point(of: Metrics, rows: int) -> dict[str, float]:
    """Return the metrics of the rows as they are, each counted once."""
    values = of.values(np.ones((1, rows), np.uint8))
    return {name: float(value[0]) for name, value in values.items()}


def ratio(a: Floats, b: Floats, undefined: float) -> Floats:
    """Divide, with a value for 0 / 0 and any other division by zero."""
    a, b = np.broadcast_arrays(a, b)
    quotient: Floats = np.divide(a, b, out=np.full(a.shape, undefined), where=b != 0)
    return quotient


@dataclass(frozen=True)
class Ranked:
    """Rank metrics of one score for one class against the rest, ties included.

    Running sums are looked at only at the groups of equal scores that hold a positive row: nothing
    else adds to area or precision, and the distance of the two distributions peaks there.
    """

    order: Ints  # rows by falling score
    positives: Ints  # positive rows by falling score
    start: Ints  # of each group with a positive: rows before it, and up to its end
    end: Ints
    positives_start: Ints  # the same, counting positive rows only
    positives_end: Ints

    @staticmethod
    def of(positive: NDArray[np.bool_], scores: Floats) -> Ranked:
        """Sort rows (n,) by falling score (n,)."""
        order = np.argsort(-scores, kind="stable")
        by_score, hits = scores[order], positive[order]
        # before[i]: positives among the first i rows
        before = np.concatenate(([0], np.cumsum(hits)))
        cuts = np.flatnonzero(by_score[1:] != by_score[:-1]) + 1
        start = np.concatenate(([0], cuts))[: len(order)]
        end = np.append(cuts, len(order))[: len(start)]
        held = before[end] > before[start]
        start, end = start[held], end[held]
        return Ranked(order, order[hits], start, end, before[start], before[end])

    def values(self, weights: Weights) -> dict[str, Floats]:
        """Return roc_auc, ks and average_precision of each weighting (b, n).

        The area is the trapezoid rule over (FP, TP), which counts ties one half (Fawcett 2006,
        algorithm 3). Average precision is the sum of precision times step of recall (scikit-learn
        user guide 3.4.4.1), ks the largest distance between the two cumulative distributions.
        """
        total, true = running(weights, self.order), running(weights, self.positives)
        tp, tp_before = true.take(self.positives_end, 1), true.take(self.positives_start, 1)
        selected = total.take(self.end, 1)
        fp, fp_before = selected - tp, total.take(self.start, 1) - tp_before
        p = true[:, -1:].astype(np.float64)
        n = total[:, -1:] - p
        step = (tp - tp_before).astype(np.float64)

        below = n - (fp + fp_before) * 0.5  # negatives ranked below each group, ties one half
        area = ratio(np.einsum("bg,bg->b", step, below), (p * n)[:, 0], np.nan)
        # a positive that counts has itself among the selected, so only steps of 0 meet the 1
        precision = tp / np.maximum(selected, 1)
        average = ratio(np.einsum("bg,bg->b", step, precision), p[:, 0], np.nan)
        one = np.ones_like(p)
        tpr, fpr = ratio(one, p, np.nan), ratio(one, n, np.nan)
        rise = (tp * tpr - fp * fpr).max(axis=1, initial=0)
        fall = (fp_before * fpr - tp_before * tpr).max(axis=1, initial=0)
        ks = np.where(np.isnan(area), np.nan, np.maximum(rise, fall))
        return {"roc_auc": area, "ks": ks, "average_precision": average}

    def auc(self, weights: Weights) -> Floats:
        """Return roc_auc alone."""
        return self.values(weights)["roc_auc"]


def running(weights: Weights, order: Ints) -> NDArray[np.int32]:
    """Return the running sums (b, len(order) + 1) of the weights in that order, from 0 on."""
    sums = np.zeros((len(weights), len(order) + 1), np.int32)
    np.cumsum(weights.take(order, 1), axis=1, dtype=np.int32, out=sums[:, 1:])
    return sums


def bins_of(confidence: Floats) -> NDArray[np.intp]:
    """Return each probability's bin among `BINS` bins of equal width."""
    return np.minimum((confidence * BINS).astype(np.intp), BINS - 1)


def spread(values: Floats, group: Ints, groups: int) -> Floats:
    """Return (n, groups): each row's value in the column of its group, else 0."""
    columns = np.zeros((len(values), groups))
    columns[np.arange(len(values)), group] = values
    return columns


class Binary:
    """Metrics of a probability of the positive class.

    Brier score and log loss are means over rows (the log of a probability clipped to the machine
    epsilon, as scikit-learn does). The expected calibration error is the sum over ten bins of equal
    width of |observed - predicted| times the bin's share (Naeini, Cooper and Hauskrecht 2015).
    Where the truth holds no positive row, recall and average_precision are not defined; precision
    of a model that selects nothing is 0.
    """

    def __init__(self, y: Ints | Floats, scores: Floats, threshold: float) -> None:
        positive = np.asarray(y) == 1
        self.ranked = Ranked.of(positive, scores)
        selected = scores >= threshold
        probability = np.clip(np.where(positive, scores, 1 - scores), EPSILON, 1 - EPSILON)
        self.columns = np.column_stack(
            (
                np.ones(len(scores)),
                positive,
                selected,
                positive & selected,
                -np.log(probability),
                (positive - scores) ** 2,
                spread(positive - scores, bins_of(scores), BINS),
            )
        )

    def values(self, weights: Weights) -> dict[str, Floats]:
        sums = weights.astype(np.float64) @ self.columns
        n, p, selected, tp, loss, brier = sums[:, :6].T
        ranked = self.ranked.values(weights)
        recall = ratio(tp, p, np.nan)
        specificity = ratio(n - p - selected + tp, n - p, np.nan)
        with_truth = np.stack((recall, specificity))
        return {
            "roc_auc": ranked["roc_auc"],
            "gini": 2 * ranked["roc_auc"] - 1,
            "ks": ranked["ks"],
            "average_precision": ranked["average_precision"],
            "log_loss": ratio(loss, n, np.nan),
            "brier": ratio(brier, n, np.nan),
            "ece": ratio(np.abs(sums[:, 6:]).sum(axis=1), n, np.nan),
            "accuracy": ratio(n - p - selected + 2 * tp, n, np.nan),
            "balanced_accuracy": mean_where(with_truth.T, ~np.isnan(with_truth.T)),
            "precision": ratio(tp, selected, 0.0),
            "recall": recall,
            "f1": ratio(2 * tp, p + selected, 0.0),
        }


class Multiclass:
    """Metrics of the probabilities of k classes; the decision is the most probable class.

    Macro forms average over the classes that occur in truth or decision, as scikit-learn's do;
    roc_auc_ovr averages each class against the rest over the classes that occur in truth. The
    calibration error looks at the top probability and whether it was right (Guo et al. 2017). The
    Brier score is Brier's own (1950), from 0 to 2.
    """

    def __init__(self, y: Ints | Floats, scores: Floats) -> None:
        y = np.asarray(y, np.intp)
        rows, self.k = scores.shape
        decided = scores.argmax(axis=1)
        right = decided == y
        truth = spread(np.ones(rows), y, self.k)
        self.ranked = [Ranked.of(y == c, scores[:, c]) for c in range(self.k)]
        probability = np.clip(scores[np.arange(rows), y], EPSILON, 1 - EPSILON)
        top = scores[np.arange(rows), decided]
        self.columns = np.column_stack(
            (
                np.ones(rows),
                right,
                -np.log(probability),
                ((truth - scores) ** 2).sum(axis=1),
                spread(right - top, bins_of(top), BINS),
                truth,
                spread(np.ones(rows), decided, self.k),
                truth * right[:, None],
            )
        )

    def values(self, weights: Weights) -> dict[str, Floats]:
        sums = weights.astype(np.float64) @ self.columns
        n, right, loss, brier = sums[:, :4].T
        gaps = sums[:, 4 : 4 + BINS]
        truth, decided, hits = np.split(sums[:, 4 + BINS :], 3, axis=1)
        areas = np.stack([ranked.auc(weights) for ranked in self.ranked], axis=1)
        occurs = truth + decided > 0
        by_class = {
            "precision": ratio(hits, decided, 0.0),
            "recall": ratio(hits, truth, 0.0),
            "f1": ratio(2 * hits, truth + decided, 0.0),
        }
        accuracy = ratio(right, n, np.nan)
        return {
            "roc_auc_ovr": mean_where(areas, ~np.isnan(areas)),
            "log_loss": ratio(loss, n, np.nan),
            "brier": ratio(brier, n, np.nan),
            "ece": ratio(np.abs(gaps).sum(axis=1), n, np.nan),
            "accuracy": accuracy,
            "balanced_accuracy": mean_where(by_class["recall"], truth > 0),
            **{f"{name}_macro": mean_where(v, occurs) for name, v in by_class.items()},
            **{
                f"{name}_weighted": ratio((v * truth).sum(axis=1), n, np.nan)
                for name, v in by_class.items()
            },
        }


class Regression:
    """Metrics of a predicted number; r2 of a constant truth is 1 if met exactly, else 0, and of a
    single row not defined. mape divides by the machine epsilon where the truth is 0."""

    def __init__(self, y: Floats, scores: Floats) -> None:
        error = np.abs(y - scores)
        # r2 does not depend on where 0 is; near the mean its sums of squares lose no digits
        centred = y - y.mean() if len(y) else y
        self.columns = np.column_stack(
            (
                np.ones(len(y)),
                error**2,
                error,
                error / np.maximum(np.abs(y), EPSILON),
                centred,
                centred**2,
            )
        )
        self.constant = bool(len(y) == 0 or np.all(y == y[0]))

    def values(self, weights: Weights) -> dict[str, Floats]:
        n, squared, absolute, relative, y, y2 = (weights.astype(np.float64) @ self.columns).T
        total = y2 - ratio(y * y, n, 0.0)
        # what is left of a constant truth is rounding
        total = np.where(self.constant | (total <= 1e-12 * y2), 0.0, total)
        r2 = np.where(total > 0, 1 - ratio(squared, total, 0.0), np.where(squared == 0, 1.0, 0.0))
        mse = ratio(squared, n, np.nan)
        return {
            "r2": np.where(n < 2, np.nan, r2),
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": ratio(absolute, n, np.nan),
            "mape": ratio(relative, n, np.nan),
        }


def mean_where(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """Return the mean (b,) of the values (b, k) that count; NaN where none does."""
    counted = np.where(where, values, 0.0).sum(axis=1)
    return ratio(counted, where.sum(axis=1).astype(np.float64), np.nan)
