"""Hyper-parameter search by scikit-learn, told step by step and stopped in time."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import get_scorer_names
from sklearn.model_selection import (
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    StratifiedKFold,
)

from trilho import config
from trilho.errors import UsageError, nearest

stats: Any = scipy_stats  # without type hints
Tell = Callable[[str], None]
SCORERS = {"binary": "roc_auc", "multiclass": "roc_auc_ovr", "regression": "r2"}


class Found(NamedTuple):
    """The best setting, and all that were tried."""

    parameters: dict[str, Any]
    results: list[dict[str, Any]]


class _OutOfTime(Exception):  # noqa: N818
    pass


def search(
    estimator: Any,
    x: pd.DataFrame,
    y: NDArray[Any],
    task: str,
    positive: Any,
    model: config.Model,
    tell: Tell,
) -> Found:
    """Try settings by cross-validation on the training rows.

    Returns
    -------
    Found
        Parameters by their full names (`classifier__max_iter`), and each setting tried with its
        mean score, standard deviation over folds and number of rows.

    Raises
    ------
    UsageError
        A parameter or metric is unknown, or no setting could be fitted.
    """
    settings = model.search
    assert settings is not None
    space = {
        parameter(estimator, name): _distribution(values) for name, values in settings.space.items()
    }
    scoring = _scorer(settings.metric or SCORERS[task], task, positive)
    splitter = KFold if task == "regression" else StratifiedKFold
    common: dict[str, Any] = {
        "cv": splitter(settings.folds, shuffle=True, random_state=model.seed),
        "scoring": scoring,
        "random_state": model.seed,
        "refit": False,
    }
    make: Any = {
        "random": partial(_Random, n_iter=settings.iterations),
        "halving": partial(_Halving, n_candidates=settings.iterations),
    }[settings.method]
    tried = make(estimator, space, **common)
    tried.clock = _Clock(settings, tell)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*total space of parameters.*")
        try:
            tried.fit(x, y)
        except ValueError as error:
            raise UsageError(
                f"model.search: no setting could be fitted: {str(error).strip().splitlines()[-1]}"
            ) from error
    return _found(tried)


def parameter(estimator: Any, name: str) -> str:
    """Return the full name of a parameter: `max_iter` means `classifier__max_iter` if only one
    part of the pipeline has such a parameter.
    """
    known = list(estimator.get_params(deep=True))
    if name in known:
        return name
    inner = [full for full in known if full.endswith(f"__{name}")]
    if len(inner) == 1:
        return str(inner[0])
    if inner:
        raise UsageError(f"model.search.space: '{name}' may be {' or '.join(sorted(inner))}.")
    short = sorted({full.rpartition("__")[2] for full in known})
    raise UsageError(
        f"model.search.space: the model has no parameter '{name}'{nearest(name, short + known)}",
        hint=f"Known: {', '.join(sorted(known)[:40])}.",
    )


def _distribution(values: config.Range | list[Any]) -> Any:
    if isinstance(values, list):
        return values
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    if whole:
        if values.log:
            return _WholeLogUniform(int(values.low), int(values.high))
        return stats.randint(int(values.low), int(values.high) + 1)
    if values.log:
        return stats.loguniform(values.low, values.high)
    return stats.uniform(values.low, values.high - values.low)


class _WholeLogUniform:
    """Whole numbers by order of magnitude, both ends included."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self._inner = stats.loguniform(low - 0.5, high + 0.5)

    def rvs(self, random_state: Any = None) -> int:
        drawn = round(float(self._inner.rvs(random_state=random_state)))
        return min(max(drawn, self._low), self._high)


def _scorer(name: str, task: str, positive: Any) -> Any:
    """A scikit-learn scorer that knows the positive class."""
    from sklearn.metrics import get_scorer

    if name not in get_scorer_names():
        raise UsageError(
            f"model.search.metric: '{name}' is no scikit-learn scorer"
            f"{nearest(name, get_scorer_names())}"
        )
    scorer = get_scorer(name)
    if task == "binary" and name in ("f1", "precision", "recall", "jaccard", "average_precision"):
        scorer._kwargs = {**scorer._kwargs, "pos_label": positive}
    return scorer


class _Clock:
    """Tells what was tried, and stops when the next setting would not be done in time."""

    def __init__(self, settings: config.Search, tell: Tell) -> None:
        minutes = settings.budget_minutes
        self._budget = None if minutes is None else 60 * minutes
        self._tell, self._total = tell, settings.iterations
        self._started = time.monotonic()
        self._longest = 0.0
        self._done = 0
        self._best = -np.inf

    def run(
        self, evaluate: Callable[..., Any], candidates: list[Any], *args: Any, more: Any = None
    ) -> Any:
        """Evaluate candidates one by one, by scikit-learn's own function."""
        results = None
        for i, candidate in enumerate(candidates):
            began = time.monotonic()
            if (
                self._budget is not None
                and self._done
                and began - self._started + self._longest > self._budget
            ):
                self._tell(f"search stopped after {self._done} settings: the time is up")
                raise _OutOfTime
            own = None if more is None else {k: [v[i]] for k, v in more.items()}
            results = evaluate([candidate], *args, more_results=own)
            self._longest = max(self._longest, time.monotonic() - began)
            self._done += 1
            score = float(results["mean_test_score"][-1])
            self._best = max(self._best, score) if score == score else self._best
            self._tell(
                f"search: setting {self._done} of {max(self._total, self._done)} scores "
                f"{score:.5f}, best {self._best:.5f}"
            )
        return results


class _Random(RandomizedSearchCV):
    clock: _Clock

    def _run_search(self, evaluate_candidates: Any, *, callback_ctx: Any = None) -> None:
        def evaluate(candidates: Any, **_context: Any) -> Any:
            return self.clock.run(evaluate_candidates, list(candidates))

        with contextlib.suppress(_OutOfTime):
            run: Any = super()._run_search
            run(evaluate, callback_ctx=callback_ctx)


class _Halving(HalvingRandomSearchCV):
    clock: _Clock

    def _run_search(self, evaluate_candidates: Any, *, callback_ctx: Any = None) -> None:
        def evaluate(candidates: Any, cv: Any, more_results: Any, **_context: Any) -> Any:
            return self.clock.run(evaluate_candidates, list(candidates), cv, more=more_results)

        with contextlib.suppress(_OutOfTime):
            run: Any = super()._run_search
            run(evaluate, callback_ctx=callback_ctx)


def _found(tried: Any) -> Found:
    results = tried.cv_results_
    rows = results.get("n_resources", [None] * len(results["params"]))
    listed = [
        {
            "parameters": {k: plain(v) for k, v in p.items()},
            "score": None if np.isnan(mean) else float(mean),
            "sd": None if np.isnan(sd) else float(sd),
            "rows": None if n is None else int(n),
        }
        for p, mean, sd, n in zip(
            results["params"],
            results["mean_test_score"],
            results["std_test_score"],
            rows,
            strict=True,
        )
    ]
    return Found(results["params"][tried.best_index_], listed)


def plain(value: Any) -> Any:
    """A parameter as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return repr(value)
