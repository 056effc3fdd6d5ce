"""Rates of decision between the groups of a protected column (binary only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trilho.evaluation.bootstrap import defined
from trilho.evaluation.metrics import Floats, ratio
from trilho.evaluation.results import FairnessGroup
from trilho.evaluation.slices import Groups

# Smaller groups are shown but make no gap: with few rows any rate is far from any other by chance.
GROUP_ROWS = 100
GROUP_POSITIVES = 30

GAPS = ("selection_rate_gap", "true_positive_rate_gap")


@dataclass(frozen=True)
class Rates:
    """The decisions of one model by group, and its gaps on these rows and on resamples."""

    groups: list[FairnessGroup]
    gaps: dict[str, float]  # NaN with fewer than two groups to compare
    draws: dict[str, Floats]  # (resamples,)


def rates(
    groups: Groups,
    y: NDArray[np.integer],
    decisions: Sequence[NDArray[np.bool_]],
    *,
    resamples: int,
    seed: Sequence[int],
) -> list[Rates]:
    """Compare one or two models' decisions between groups, on the same resamples.

    Parameters
    ----------
    groups
        The rows' groups.
    y : (n,)
        1 for positive rows, else 0.
    decisions
        For each model (n,): True where the positive class is decided.
    resamples, seed
        Of the bootstrap.

    Notes
    -----
    All rates follow from the counts of the cells group x truth x decisions, so a resample is one
    multinomial draw of these counts: the ordinary bootstrap, at the cost of some hundred numbers.
    Selection rate is the share decided positive (demographic parity), true positive rate is that
    share among positive rows (equal opportunity; Hardt, Price and Srebro 2016).
    """
    shape = (len(groups.labels), 2, *(2 for _ in decisions))
    cells = np.ravel_multi_index(
        (groups.codes, y.astype(np.intp), *(d.astype(np.intp) for d in decisions)), shape
    )
    counted = np.bincount(cells, minlength=int(np.prod(shape)))
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    drawn = rng.multinomial(len(y), counted / len(y), size=resamples)
    found = []
    for model in range(len(decisions)):
        others = tuple(2 + i for i in range(len(decisions)) if i != model)
        own = counted.reshape(shape).sum(axis=others)[None]
        resampled = drawn.reshape(resamples, *shape).sum(axis=tuple(1 + axis for axis in others))
        rows, positives = own[0].sum(axis=(1, 2)), own[0, :, 1].sum(axis=1)
        compared = (rows >= GROUP_ROWS, (rows >= GROUP_ROWS) & (positives >= GROUP_POSITIVES))
        selection, recall = _rates(own)
        found.append(
            Rates(
                [
                    FairnessGroup(
                        label=label,
                        rows=int(rows[i]),
                        selection_rate=defined(selection[0, i]),
                        true_positive_rate=defined(recall[0, i]),
                    )
                    for i, label in enumerate(groups.labels)
                ],
                {
                    gap: float(_gap(r, c)[0])
                    for gap, r, c in zip(GAPS, (selection, recall), compared, strict=True)
                },
                {
                    gap: _gap(r, c)
                    for gap, r, c in zip(GAPS, _rates(resampled), compared, strict=True)
                },
            )
        )
    return found


def _rates(cells: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Return both rates (b, groups) of counts (b, groups, truth, decided)."""
    counts = cells.astype(np.float64)
    selection = ratio(counts[..., 1].sum(axis=2), counts.sum(axis=(2, 3)), np.nan)
    return selection, ratio(counts[:, :, 1, 1], counts[:, :, 1].sum(axis=2), np.nan)


def _gap(rate: Floats, compared: NDArray[np.bool_]) -> Floats:
    """Return the largest minus the smallest rate (b,) of the groups that are compared."""
    if compared.sum() < 2:
        return np.full(len(rate), np.nan)
    gap: Floats = np.ptp(rate[:, compared], axis=1)
    return gap
