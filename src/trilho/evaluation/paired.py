"""Candidate beside champion, on the same rows and the same resamples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trilho import config
from trilho.errors import RejectedError
from trilho.evaluation import bootstrap
from trilho.evaluation.fairness import GAPS, rates
from trilho.evaluation.metrics import Floats, metrics, point
from trilho.evaluation.results import Comparison, DataChange, Difference, Flips, SliceDifference
from trilho.evaluation.single import Ids, Rows, canonical, checked, seed, slice_draws, slices
from trilho.evaluation.slices import split

IDS = 10  # of flipped rows


def compare(
    settings: config.Evaluation,
    *,
    task: str,
    y: NDArray[Any],
    scores: NDArray[Any],
    champion_scores: NDArray[Any],
    frame: pd.DataFrame,
    champion_digest: str,
    champion_version: int | None = None,
    ids: Ids = None,
    threshold: float | None = None,
    champion_threshold: float | None = None,
    data: DataChange | None = None,
    caveats: Sequence[str] = (),
) -> Comparison:
    """Compare a candidate with the champion on the hold-out rows.

    Parameters
    ----------
    settings, task, y, scores, frame, ids, threshold
        As `evaluate` takes them.
    champion_scores : (n,) or (n, k)
        The champion's scores of the same rows.
    champion_digest, champion_version
        Which champion it is.
    champion_threshold
        The champion's own threshold; 0.5 when left out.
    data
        What changed in the data since the champion, see `data_change`.
    caveats
        Why the comparison is not quite fair.

    Returns
    -------
    Comparison
        With `impossible` set where the champion's scores cannot be used.

    Raises
    ------
    RejectedError
        The candidate's scores cannot be used.
    """
    y, scores = checked(task, y, scores, ids, "The candidate")
    try:
        _, champion = checked(task, y, champion_scores, ids, "The champion")
    except RejectedError as error:
        return Comparison(
            champion_digest=champion_digest,
            champion_version=champion_version,
            data=data,
            impossible=error.message,
        )
    order = canonical(ids, y, scores)
    both = _Both(task, scores[order], champion[order], threshold, champion_threshold)
    truth = y[order]

    def differences() -> dict[str, Difference]:
        drawn = bootstrap.draw(
            lambda rows: both.metrics(truth[rows], rows),
            len(y),
            resamples=settings.resamples,
            seed=seed(settings, "all"),
            strata=None if task == "regression" else truth,
        )
        return both.differences(truth, np.arange(len(y)), drawn, settings.confidence)

    with bootstrap.at_once() as pool:
        slices = pool.submit(_slices, settings, both, truth, frame, order)
        whole = pool.submit(differences)
        return Comparison(
            champion_digest=champion_digest,
            champion_version=champion_version,
            rows=len(y),
            confidence=settings.confidence,
            resamples=settings.resamples,
            fairness=_fairness(settings, both, truth, frame, order) if task == "binary" else {},
            flips=None if task == "regression" else _flips(both, truth, ids, order),
            metrics=whole.result(),
            slices=slices.result(),
            data=data,
            caveats=list(caveats),
        )


class _Both:
    """The scores of candidate and champion, in the same order of rows."""

    def __init__(
        self,
        task: str,
        candidate: Floats,
        champion: Floats,
        threshold: float | None,
        champion_threshold: float | None,
    ) -> None:
        self.task = task
        self.models = [
            (scores, 0.5 if at is None else at)
            for scores, at in ((candidate, threshold), (champion, champion_threshold))
        ]

    def metrics(self, y: NDArray[Any], rows: Rows) -> list[Any]:
        return [metrics(self.task, y, scores[rows], at) for scores, at in self.models]

    def decisions(self) -> list[NDArray[Any]]:
        """Return what each model decides for each row (classification)."""
        return [
            scores >= at if scores.ndim == 1 else scores.argmax(axis=1)
            for scores, at in self.models
        ]

    def differences(
        self, y: NDArray[Any], rows: Rows, drawn: bootstrap.Draws, confidence: float
    ) -> dict[str, Difference]:
        candidate, champion = (point(model, len(y)) for model in self.metrics(y, rows))
        ours, theirs = drawn.values
        return {
            name: bootstrap.difference(
                candidate[name],
                champion[name],
                ours[name] - theirs[name],
                drawn.scale,
                confidence,
            )
            for name in candidate
        }


def _slices(
    settings: config.Evaluation, both: _Both, y: NDArray[Any], frame: pd.DataFrame, order: Rows
) -> list[SliceDifference]:
    def judge(group: tuple[str, str, Rows]) -> SliceDifference:
        label, column, own = group
        truth = y[own]

        def build(rows: Rows) -> Any:
            return both.metrics(truth[rows], own[rows])

        drawn = slice_draws(settings, build, both.task, truth, f"{column}={label}")
        differences = both.differences(truth, own, drawn, settings.confidence)
        return SliceDifference(column=column, label=label, rows=len(own), metrics=differences)

    return bootstrap.together(judge, slices(settings, frame, order))


def _fairness(
    settings: config.Evaluation, both: _Both, y: NDArray[Any], frame: pd.DataFrame, order: Rows
) -> dict[str, dict[str, Difference]]:
    found = {}
    for by in settings.fairness:
        groups = split(frame, by, "fairness").take(order)
        candidate, champion = rates(
            groups,
            y,
            both.decisions(),
            resamples=settings.resamples,
            seed=seed(settings, f"fairness {groups.column}"),
        )
        found[groups.column] = {
            gap: bootstrap.difference(
                candidate.gaps[gap],
                champion.gaps[gap],
                candidate.draws[gap] - champion.draws[gap],
                1.0,
                settings.confidence,
            )
            for gap in GAPS
        }
    return found


def _flips(both: _Both, y: NDArray[Any], ids: Ids, order: Rows) -> Flips:
    right, was_right = (decided == y for decided in both.decisions())
    names = np.arange(len(y)) if ids is None else np.asarray(ids)

    def some(rows: NDArray[np.bool_]) -> list[str]:
        # the canonical order looks random, so these ten stand for all
        return [str(name) for name in names[order[np.flatnonzero(rows)[:IDS]]]]

    fixed, broken = right & ~was_right, was_right & ~right
    return Flips(
        fixed=int(fixed.sum()),
        broken=int(broken.sum()),
        fixed_ids=some(fixed),
        broken_ids=some(broken),
    )
