"""The frozen hold-out: which rows no model may learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trilho.config import Split
from trilho.dataset.hashing import Hashes, mix, text_hashes, value_hashes
from trilho.dataset.roles import Dataset
from trilho.errors import DataError, UsageError


def holdout(dataset: Dataset, split: Split) -> npt.NDArray[np.bool_]:
    """Tell which rows are held out.

    `random` gives each row a number in [0, 1) by hashing its id with the seed, and holds it out
    when that lies below the share. So the side of a row depends on its id and the seed alone:
    rows added, removed or reordered move no other row, on no machine. For the same reason the
    split is stratified in expectation, not exactly: each class is held out at the asked share with
    a standard deviation of sqrt(share (1 - share) / rows of the class). An exact count per class
    would have to look at the other rows, and would move some with every row that is added.

    `group` does the same with the group in place of the id, so a group is never divided. `time`
    holds out the rows at or after `cutoff`; without it, the latest share of the rows, and rows of
    one moment stay together.

    Returns
    -------
    numpy.ndarray of bool, shape (rows,)
        True for a held-out row.

    Raises
    ------
    UsageError
        The split column is not of a kind that the method needs, or the cutoff is not of its kind.
    DataError
        The split column has missing values, or one side would be empty or lack a class.
    """
    if split.method == "random":
        held = _uniform(text_hashes(dataset.ids), split.seed) < split.holdout
    else:
        assert split.column is not None
        column = _complete(dataset, split.column)
        if split.method == "group":
            held = _uniform(value_hashes(column), split.seed) < split.holdout
        else:
            held = _latest(column, split)
    _check(dataset, held, split)
    return held


def _uniform(hashes: Hashes, seed: int) -> npt.NDArray[np.float64]:
    """Return numbers uniform in [0, 1) by hash and seed, on the 2^53 steps of a double."""
    key = mix(np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64))
    return (mix(hashes ^ key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _complete(dataset: Dataset, name: str) -> pd.Series:
    column = dataset.frame[name]
    if missing := int(column.isna().sum()):
        raise DataError(
            f"{dataset.path}: the split column '{name}' has {missing} missing values; "
            "each row needs one to have a side."
        )
    return column


def _latest(column: pd.Series, split: Split) -> npt.NDArray[np.bool_]:
    dates = pd.api.types.is_datetime64_any_dtype(column.dtype)
    if not dates and column.dtype.kind not in "iuf":
        raise UsageError(
            f"data.split.column: '{column.name}' is neither dates nor numbers, so it has no order "
            "in time.",
            hint="Write dates as 2026-01-31 or 2026-01-31T12:00:00.",
        )
    if split.cutoff is None:
        ordered = np.sort(column.to_numpy())
        boundary: Any = ordered[len(ordered) - max(1, round(len(ordered) * split.holdout))]
        held: npt.NDArray[np.bool_] = column.to_numpy() >= boundary
        return held
    try:
        cutoff: Any = pd.Timestamp(split.cutoff) if dates else float(split.cutoff)
    except ValueError:
        kind = "a date" if dates else "a number"
        raise UsageError(
            f"data.split.cutoff: '{split.cutoff}' is not {kind}, as '{column.name}' is."
        ) from None
    if dates and column.dt.tz is not None:
        cutoff = cutoff.tz_localize("UTC") if cutoff.tz is None else cutoff
    elif dates and cutoff.tz is not None:
        cutoff = cutoff.tz_convert("UTC").tz_localize(None)
    return np.asarray(column >= cutoff, dtype=np.bool_)


def _check(dataset: Dataset, held: npt.NDArray[np.bool_], split: Split) -> None:
    """Refuse a split that leaves a side without rows or without a class."""
    target = dataset.frame[dataset.target]
    for rows, side in ((held, "hold-out"), (~held, "training rows")):
        lacking = [c for c in dataset.classes or [] if not (target[rows] == c).any()]
        if not rows.any() or lacking:
            what = f"no row of class {lacking[0]!r}" if lacking and rows.any() else "no row"
            raise DataError(
                f"{dataset.path}: the {side} would have {what} "
                f"({len(held)} rows, split '{split.method}', holdout {split.holdout}).",
                hint="Bring more rows, or set another data.split.holdout, seed or cutoff.",
            )
