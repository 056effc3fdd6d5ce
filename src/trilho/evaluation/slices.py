"""Groups of rows, by the values of a column or by its bins."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trilho.config import SliceBy
from trilho.errors import UsageError, nearest

LEVELS = 30  # a column has no more groups than this; the rest is one group, `other`
QUARTILES = (0.25, 0.5, 0.75)
MISSING, OTHER = "missing", "other"


@dataclass(frozen=True)
class Groups:
    """Rows split by one column."""

    column: str
    labels: list[str]
    codes: NDArray[np.intp]  # (n,) index into `labels`; every label has rows

    def take(self, order: NDArray[np.intp]) -> Groups:
        """Return the groups of the rows in another order."""
        return Groups(self.column, self.labels, self.codes[order])

    def rows(self) -> list[NDArray[np.intp]]:
        """Return the row numbers of each group, rising."""
        order = np.argsort(self.codes, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.codes))[:-1])


def split(frame: pd.DataFrame, by: str | SliceBy, key: str = "slices") -> Groups:
    """Split rows by a column: missing values are a group, and at most 30 groups come out.

    A text column keeps its most frequent values and gathers the rest as `other`; a number or date
    with more than 30 values and no bins is split at its quartiles.

    Parameters
    ----------
    frame
        The rows.
    by
        The column, or column and inner edges.
    key
        The configuration key that named the column, for the error.

    Raises
    ------
    UsageError
        The column does not exist, or bins are given for something that is not a number.
    """
    column, edges = (by, None) if isinstance(by, str) else (by.column, by.bins)
    if column not in frame.columns:
        known = [str(c) for c in frame.columns]
        raise UsageError(
            f"evaluation.{key}: the dataset has no column '{column}'{nearest(column, known)}",
            hint=f"Known columns: {', '.join(known)}.",
        )
    values = frame[column]
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if edges is not None:
        if not number:
            raise UsageError(
                f"evaluation.{key}: column '{column}' is no number, so it cannot have 'bins'."
            )
        cuts = sorted(set(edges))
        return _binned(column, values, np.asarray(cuts), [f"{edge:g}" for edge in cuts])
    present = values.dropna()
    if (number or pd.api.types.is_datetime64_any_dtype(values)) and present.nunique() > LEVELS:
        quartiles = present.quantile(list(QUARTILES)).drop_duplicates()
        return _binned(column, values, quartiles.to_numpy(), [_label(q) for q in quartiles])
    return _levels(column, values)


def _binned(column: str, values: pd.Series[Any], edges: NDArray[Any], names: list[str]) -> Groups:
    labels = [f"<{names[0]}", *(f"{a} to {b}" for a, b in pairwise(names))]
    labels += [f">={names[-1]}", MISSING]
    codes = np.searchsorted(edges, values.to_numpy(edges.dtype, na_value=edges[0]), side="right")
    return _present(column, labels, np.where(values.isna(), len(labels) - 1, codes))


def _levels(column: str, values: pd.Series[Any]) -> Groups:
    codes, found = pd.factorize(values, sort=False, use_na_sentinel=True)
    names = [_label(v) for v in found]
    sizes = np.bincount(codes[codes >= 0], minlength=len(found))
    by_size = sorted(range(len(found)), key=lambda i: (-sizes[i], names[i]))
    kept = by_size if len(found) <= LEVELS else by_size[: LEVELS - 1]
    # numbers in their order, text in the alphabet's
    kept.sort(key=lambda i: (names[i] if isinstance(found[i], str) else "", _order(found[i])))
    place = np.full(len(found) + 1, len(kept))  # the last of them stands for missing: codes == -1
    place[kept] = np.arange(len(kept))
    place[-1] = len(kept) + 1
    return _present(column, [*(names[i] for i in kept), OTHER, MISSING], place[codes])


def _present(column: str, labels: list[str], codes: NDArray[np.intp]) -> Groups:
    """Leave out the labels that no row has."""
    held, codes = np.unique(codes, return_inverse=True)
    return Groups(column, [labels[i] for i in held], codes)


def _label(value: Any) -> str:
    if isinstance(value, pd.Timestamp):
        return str(value.date()) if value == value.normalize() else str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)


def _order(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
