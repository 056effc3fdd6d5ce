"""Bootstrap intervals: the same resamples for every model and every metric."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trilho.evaluation.metrics import Floats, Metrics, Weights
from trilho.evaluation.results import Difference, Estimate

T = TypeVar("T")
R = TypeVar("R")

# Resampled at most; see `sample`.
ROWS = 10_000
SLICE_ROWS = 2_500
SLICE_RESAMPLES = 500
# Fewest rows of each class in the sample, as far as there are so many.
CLASS_ROWS = 1_000
# Elements of one block of weights: a few megabytes once they are float64.
BLOCK = 1 << 18
# A metric that is undefined in more than this share of resamples has no interval.
UNDEFINED = 0.05

# How often a row counts, looked up by one random byte: a Poisson(1) count rounded to 256ths so that
# the mean is exactly 1 (the variance is 1.008).
COUNTS = np.repeat(np.arange(6, dtype=np.uint8), (95, 93, 47, 16, 4, 1))

UNBOUNDED_ABOVE = {"log_loss", "mse", "rmse", "mae", "mape"}
LOWEST = {"gini": -1.0, "r2": -np.inf}
HIGHEST = {"brier": 2.0}


@dataclass(frozen=True)
class Draws:
    """The values of metrics over the resamples, for each model, and what they are worth."""

    values: list[dict[str, Floats]]  # per model: metric to (resamples,)
    scale: float  # by which the spread of the sample is wider than that of all rows


def draw(
    build: Callable[[NDArray[np.intp]], Sequence[Metrics]],
    rows: int,
    *,
    resamples: int,
    seed: Sequence[int],
    strata: NDArray[np.intp] | None = None,
    cap: int = ROWS,
    workers: int | None = None,
) -> Draws:
    """Compute metrics of one or more models on the same resamples of the same rows.

    Parameters
    ----------
    build
        Takes row numbers, returns the metrics of each model on those rows.
    rows
        Number of rows there are.
    resamples
        Number of resamples.
    seed
        Equal seeds give equal draws, however many workers there are.
    strata : (rows,)
        The class of each row, from 0; a sample of rows keeps the classes' shares.
    cap
        Rows resampled at most, see `sample`.
    workers
        Threads; numpy works outside of the interpreter's lock.

    Notes
    -----
    Each row's count is drawn by itself, mean 1 and variance 1: the weighted bootstrap of
    Praestgaard and Wellner (1993), valid as multinomial counts are.
    """
    root = np.random.SeedSequence(seed)
    chosen = sample(rows, cap, np.random.default_rng(root.spawn(1)[0]), strata)
    models = build(chosen)
    per_block = max(1, min(resamples, BLOCK // max(1, len(chosen))))
    sizes = [min(per_block, resamples - start) for start in range(0, max(resamples, 1), per_block)]

    def block(job: tuple[int, np.random.SeedSequence]) -> list[dict[str, Floats]]:
        size, own = job
        weights = counts(np.random.default_rng(own), size, len(chosen))
        return [model.values(weights) for model in models]

    jobs = list(zip(sizes, root.spawn(len(sizes)), strict=True))
    blocks = together(block, jobs, workers)
    values = [
        {name: np.concatenate([b[i][name] for b in blocks]) for name in blocks[0][i]}
        for i in range(len(models))
    ]
    return Draws(values, float(np.sqrt(len(chosen) / rows)) if rows else 1.0)


def together(do: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> list[R]:
    """Do something to each item in threads: numpy works outside of the interpreter's lock.

    Each worker gets one BLAS thread: no more threads than cores, and the same sums every time.
    """
    if workers == 1:
        with threadpool_limits(1, user_api="blas"):
            return [do(item) for item in items]
    with at_once(workers) as pool:
        return list(pool.map(do, items))


@contextmanager
def at_once(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool for things that are done side by side, as `together` does them."""
    workers = workers or min(4, os.cpu_count() or 1)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        yield pool


def counts(rng: np.random.Generator, resamples: int, rows: int) -> Weights:
    """Draw how often each row counts in each resample (resamples, rows)."""
    random = np.frombuffer(rng.bytes(resamples * rows), np.uint8)
    return COUNTS.take(random).reshape(resamples, rows)


def sample(
    rows: int, cap: int, rng: np.random.Generator, strata: NDArray[np.intp] | None
) -> NDArray[np.intp]:
    """Return the row numbers to resample: all up to `cap`, else a random sample.

    The spread of a metric falls with the square root of the rows, so it can be learnt on a sample
    and narrowed (m out of n; Politis, Romano and Wolf 1999). The sample keeps each class's share,
    and grows up to four times while the rarest class has fewer than `CLASS_ROWS` rows in it.
    """
    if rows <= cap:
        return np.arange(rows)
    if strata is None:
        return np.sort(rng.permutation(rows)[:cap])
    sizes = np.bincount(strata)
    share = max(cap, min(4 * cap, CLASS_ROWS * rows / sizes[sizes > 0].min())) / rows
    if share >= 1:
        return np.arange(rows)
    shuffled = rng.permutation(rows)
    by_class = shuffled[np.argsort(strata[shuffled], kind="stable")]
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    taken = [
        by_class[start : start + int(np.ceil(size * share))]
        for start, size in zip(starts, sizes, strict=True)
    ]
    return np.sort(np.concatenate(taken))


def ends(
    value: float, drawn: Floats, scale: float, confidence: float
) -> tuple[float, float] | None:
    """Return the interval of a value, or None where too few resamples define it.

    The interval is the percentile interval (Efron and Tibshirani 1993, chapter 13), moved so that
    the median resample stands at the value itself: metrics such as ks and ece grow by resampling
    alone, and without the move their interval might not hold their own value. `scale` narrows it.
    """
    if np.isnan(value) or len(drawn) == 0:
        return None
    known = drawn[~np.isnan(drawn)]
    if len(known) < (1 - UNDEFINED) * len(drawn):
        return None
    tail = (1 - confidence) / 2
    low, middle, high = np.quantile(known, [tail, 0.5, 1 - tail])
    return value - float(middle - low) * scale, value + float(high - middle) * scale


def estimate(metric: str, value: float, drawn: Floats, scale: float, confidence: float) -> Estimate:
    """Return a metric with its interval, kept within the values that the metric can take."""
    if np.isnan(value):
        return Estimate(value=None)
    found = ends(value, drawn, scale, confidence)
    if found is None:
        return Estimate(value=value)
    bottom = LOWEST.get(metric, 0.0)
    top = np.inf if metric in UNBOUNDED_ABOVE else HIGHEST.get(metric, 1.0)
    return Estimate(
        value=value, low=min(value, max(bottom, found[0])), high=max(value, min(top, found[1]))
    )


def difference(
    candidate: float, champion: float, drawn: Floats, scale: float, confidence: float
) -> Difference:
    """Return candidate minus champion with the interval of paired draws."""
    value = candidate - champion
    found = ends(value, drawn, scale, confidence)
    return Difference(
        candidate=defined(candidate),
        champion=defined(champion),
        difference=defined(value),
        low=found[0] if found else None,
        high=found[1] if found else None,
    )


def defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
