"""Paired bootstrap of all binary metrics, beside a loop over scikit-learn's metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
from scipy.stats import ks_2samp
from sklearn import metrics as sk

from benchmarks.measure import Row, table
from trilho.evaluation import bootstrap
from trilho.evaluation.metrics import Binary

SEED = (42,)
ROWS, LARGE = 7_500, 250_000
RESAMPLES = 2_000
LOOP = 200  # resamples that the peer runs


def simulated(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth (22 % positive, as in the credit data) and the scores of two similar models."""
    rng = np.random.default_rng(0)
    y = (rng.random(rows) < 0.22).astype(int)
    latent = rng.normal(1.1 * y - 1.3)
    scores = [1 / (1 + np.exp(-(latent + rng.normal(0, 0.2, rows)))) for _ in range(2)]
    return y, scores[0], scores[1]


def by_scikit_learn(y: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """All binary metrics that Trilho gives, the usual way."""
    decided = scores >= 0.5
    auc = sk.roc_auc_score(y, scores)
    bins = np.minimum((scores * 10).astype(int), 9)
    gaps = np.bincount(bins, weights=y - scores, minlength=10)
    return {
        "roc_auc": auc,
        "gini": 2 * auc - 1,
        "ks": ks_2samp(scores[y == 1], scores[y == 0], method="asymp").statistic,
        "average_precision": sk.average_precision_score(y, scores),
        "log_loss": sk.log_loss(y, scores),
        "brier": sk.brier_score_loss(y, scores),
        "ece": np.abs(gaps).sum() / len(y),
        "accuracy": sk.accuracy_score(y, decided),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decided),
        "precision": sk.precision_score(y, decided),
        "recall": sk.recall_score(y, decided),
        "f1": sk.f1_score(y, decided),
    }


def timed(job: Callable[[], object], repeats: int = 5) -> float:
    """Return the median seconds of a job."""
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        job()
        seconds.append(perf_counter() - start)
    return median(seconds)


def main() -> str:
    warnings.simplefilter("ignore")
    y, one, two = simulated(ROWS)
    draws = ours(y, one, two)
    seconds = timed(lambda: ours(y, one, two))

    weights = first_weights(ROWS, RESAMPLES, LOOP)
    looped: list[list[dict[str, float]]] = []
    start = perf_counter()
    for counts in weights:
        rows = np.repeat(np.arange(ROWS), counts)
        looped.append([by_scikit_learn(y[rows], scores[rows]) for scores in (one, two)])
    loop_seconds = (perf_counter() - start) * RESAMPLES / LOOP
    error = max(
        abs(pair[model][name] - draws.values[model][name][i])
        for i, pair in enumerate(looped)
        for model in (0, 1)
        for name in pair[model]
    )
    large = simulated(LARGE)
    large_seconds = timed(lambda: ours(*large), 3)
    row = Row(
        f"paired bootstrap, 12 metrics of two models, {RESAMPLES:,} resamples, {ROWS:,} rows: time",
        f"{seconds:.2f} s",
        f"{loop_seconds:.0f} s",
        loop_seconds / seconds,
        50,
        at_least=True,
    )
    return table(
        "The bootstrap",
        "python -m benchmarks bootstrap",
        f"Peer: a loop over scikit-learn's metrics on the same resamples, timed on {LOOP} of them "
        f"and scaled; the largest difference of any metric on those was {error:.1e}. The ratio is "
        f"the peer's time over ours. {LARGE:,} rows take us {large_seconds:.2f} s.",
        [row],
    )


def ours(y: np.ndarray, *scores: np.ndarray) -> bootstrap.Draws:
    return bootstrap.draw(
        lambda rows: [Binary(y[rows], s[rows], 0.5) for s in scores],
        len(y),
        resamples=RESAMPLES,
        seed=SEED,
        strata=y,
    )


def first_weights(rows: int, resamples: int, wanted: int) -> np.ndarray:
    """Return the first weights that `bootstrap.draw` uses, block by block."""
    root = np.random.SeedSequence(SEED)
    root.spawn(1)  # the sample's
    size = max(1, min(resamples, bootstrap.BLOCK // rows))
    blocks = root.spawn(-(-resamples // size))
    drawn = [
        bootstrap.counts(np.random.default_rng(seed), min(size, resamples - i * size), rows)
        for i, seed in enumerate(blocks[: -(-wanted // size)])
    ]
    return np.concatenate(drawn)[:wanted]
