"""What changed in the training data since the champion, by the sketches in both bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from scipy.special import chdtri

from trilho.evaluation.metrics import Floats
from trilho.evaluation.results import ColumnChange, DataChange

BINS = 10
PSI = 0.1  # the usual bound of a change that matters
ALPHA = 0.05  # chance of any false alarm, over all columns


class Sketch(Protocol):
    """The distribution of one column."""

    @property
    def kind(self) -> str: ...
    @property
    def missing(self) -> float: ...
    @property
    def quantiles(self) -> Sequence[float]: ...
    @property
    def shares(self) -> Mapping[str, float]: ...


class Reference(Protocol):
    """The distributions of all columns, as `reference.json` holds them."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> Mapping[str, Sketch]: ...


def data_change(before: Reference, now: Reference) -> DataChange:
    """Compare the columns of two references.

    A column counts as drifted when its population stability index (PSI) is at least 0.1 *and* more
    than chance: without a change PSI is distributed as (1/n + 1/m) times chi-square with as many
    degrees of freedom as bins less one (Yurdakul and Naranjo 2020), so with few rows 0.1 means
    nothing, and with many rows changes that matter to nobody are significant.

    Parameters
    ----------
    before, now
        References of champion and candidate.
    """
    common = [name for name in now.columns if name in before.columns]
    columns = [
        _column(
            name,
            before.columns[name],
            now.columns[name],
            before.rows,
            now.rows,
            ALPHA / len(common),
        )
        for name in common
    ]
    columns += [
        ColumnChange(column=name, change="added", missing_now=sketch.missing)
        for name, sketch in now.columns.items()
        if name not in before.columns
    ]
    columns += [
        ColumnChange(column=name, change="removed", missing_before=sketch.missing)
        for name, sketch in before.columns.items()
        if name not in now.columns
    ]
    return DataChange(rows_before=before.rows, rows_now=now.rows, columns=columns)


def _column(
    name: str, before: Sketch, now: Sketch, rows_before: int, rows_now: int, alpha: float
) -> ColumnChange:
    psi, change = None, "drifted"  # text where a number was is another column
    if bool(before.shares) == bool(now.shares) or before.missing == 1 or now.missing == 1:
        old, new = _shares(before, now)
        psi = population_stability(old, new, rows_before, rows_now)
        freedom = max(1, int(((old > 0) | (new > 0)).sum()) - 1)
        chance = (1 / rows_before + 1 / rows_now) * chdtri(freedom, alpha)
        change = "drifted" if psi >= PSI and psi > chance else "same"
    return ColumnChange(
        column=name,
        change=change,
        psi=psi,
        missing_before=before.missing,
        missing_now=now.missing,
    )


def population_stability(before: Floats, now: Floats, rows_before: int, rows_now: int) -> float:
    """Return the PSI, sum of (now - before) ln(now / before), of two rows of shares.

    Half a row is added to each bin, so that empty bins count for what the rows can tell.
    """
    a, b = (
        (share * rows + 0.5) / (rows + 0.5 * len(share))
        for share, rows in ((before, rows_before), (now, rows_now))
    )
    return float(np.sum((b - a) * np.log(b / a)))


def _shares(before: Sketch, now: Sketch) -> tuple[Floats, Floats]:
    """Return the shares of both in the same bins; missing values are one more bin."""
    if before.shares or now.shares:
        names = list(before.shares)
        present = [[s.shares.get(name, 0.0) for name in names] for s in (before, now)]
        bins = [np.array([*known, max(0.0, 1 - sum(known))]) for known in present]
    else:
        edges = _edges(before.quantiles)
        bins = [_binned(sketch.quantiles, edges) for sketch in (before, now)]
    old, new = (
        np.append(shares * (1 - sketch.missing), sketch.missing)
        for shares, sketch in zip(bins, (before, now), strict=True)
    )
    return old, new


def _edges(quantiles: Sequence[float]) -> Floats:
    """Return edges at the deciles, and below the lowest value and at the highest."""
    if not quantiles:
        return np.zeros(0)
    inner = np.quantile(quantiles, np.arange(1, BINS + 1) / BINS, method="inverted_cdf")
    return np.unique(np.append(np.nextafter(quantiles[0], -np.inf), inner))


def _binned(quantiles: Sequence[float], edges: Floats) -> Floats:
    """Return the share of a sketch in each bin: up to each edge, and above the last.

    Between two points of the sketch the distribution is taken as even; at a value that stands in
    the sketch, perhaps many times, it is exact.
    """
    points = np.asarray(quantiles)
    if len(points) < 2:
        return np.zeros(len(edges) + 1)
    upto = np.searchsorted(points, edges, side="right")  # points at or below each edge
    last, following = points[upto - 1], points[np.minimum(upto, len(points) - 1)]
    part = (edges - last) / np.where(following > last, following - last, 1.0)
    below = (upto - 1 + np.where(following > last, part, 0.0)) / (len(points) - 1)
    below[upto == 0] = 0.0
    return np.diff(np.concatenate(([0.0], below.clip(0, 1), [1.0])))
