"""Paired bootstrap of all binary metrics, beside a loop over scikit-learn's metrics.

Both use the same rows and the same resamples. The loop runs on the first `--loop` of them and its
time is scaled to all; with `--loop 2000` it runs them all. Prints Markdown.

    .venv/bin/python benchmarks/bootstrap.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
from scipy.stats import ks_2samp
from sklearn import metrics as sk

from trilho.evaluation import bootstrap
from trilho.evaluation.metrics import Binary

SEED = (42,)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=7_500)
    parser.add_argument("--resamples", type=int, default=2_000)
    parser.add_argument("--loop", type=int, default=100, help="resamples that the loop runs")
    parser.add_argument("--large", type=int, default=250_000, help="rows of the large case")
    given = parser.parse_args()
    warnings.simplefilter("ignore")

    def ours(y: np.ndarray, *scores: np.ndarray) -> bootstrap.Draws:
        return bootstrap.draw(
            lambda rows: [Binary(y[rows], s[rows], 0.5) for s in scores],
            len(y),
            resamples=given.resamples,
            seed=SEED,
            strata=y,
        )

    y, one, two = simulated(given.rows)
    draws = ours(y, one, two)
    seconds = timed(lambda: ours(y, one, two))

    weights = first_weights(given.rows, given.resamples, given.loop)
    looped: list[list[dict[str, float]]] = []
    start = perf_counter()
    for counts in weights:
        rows = np.repeat(np.arange(given.rows), counts)
        looped.append([by_scikit_learn(y[rows], scores[rows]) for scores in (one, two)])
    loop_seconds = (perf_counter() - start) * given.resamples / len(weights)
    error = max(
        abs(pair[model][name] - draws.values[model][name][i])
        for i, pair in enumerate(looped)
        for model in (0, 1)
        for name in pair[model]
    )

    large = simulated(given.large)
    large_seconds = timed(lambda: ours(*large), 3)
    extent = "" if len(weights) == given.resamples else f", scaled from {len(weights)}"
    print(f"Paired bootstrap, two models, 12 metrics, {given.resamples:,} resamples\n")
    print("| | rows | seconds | ratio |\n|---|---|---|---|")
    print(f"| loop over scikit-learn{extent} | {given.rows:,} | {loop_seconds:.1f} | |")
    print(f"| trilho | {given.rows:,} | {seconds:.3f} | {loop_seconds / seconds:.0f} |")
    print(f"| trilho | {given.large:,} | {large_seconds:.2f} | |")
    print(f"\nLargest difference of any metric on any resample that both ran: {error:.1e}.")


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


if __name__ == "__main__":
    main()
