"""The proof that the serving form gives what scikit-learn gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trilho.bundle import Signature
from trilho.errors import DataError
from trilho.training.columns import Columns, join, take, to_frame
from trilho.training.refused import CompileRefused
from trilho.training.scoring import Form, predict

TOLERANCE = 1e-9  # largest difference of a probability; of a regression, relative above 1
SINGLE_TOLERANCE = 1e-12  # between a row alone and the same row in a batch
SINGLE_ROWS = 1000
EXTREME = 1e300
FAR_DATE = 30_000.0  # days from 1970: a date library need not know much later ones
UNSEEN = "\x1funseen\x1f"


def prove(
    model: Any,
    form: Form,
    frame: pd.DataFrame,
    columns: Columns,
    signature: Signature,
    threshold: float | None,
) -> tuple[float, NDArray[np.float64]]:
    """Compare the serving form with scikit-learn on all hold-out rows and on edge rows.

    Parameters
    ----------
    model
        The fitted scikit-learn model.
    form
        Its serving form.
    frame, columns
        The hold-out rows as the model was given its training rows, and as the service passes them.
    signature, threshold
        What decides.

    Returns
    -------
    largest, scores
        The largest difference seen, and the serving form's scores of the hold-out.

    Raises
    ------
    CompileRefused
        Naming the largest difference, the flipped decisions, or the row on which only one of the
        two forms gives an answer.
    """
    try:
        scores = form.predict(columns)
    except DataError as error:
        raise CompileRefused(f"it cannot score the hold-out: {error.message}") from None
    try:
        expected = predict(model, frame, signature)
    except Exception as error:  # a model's own code may raise anything
        raise CompileRefused(
            f"scikit-learn cannot score the hold-out, the compiled form can: {type(error).__name__}"
        ) from None
    largest = _compare(expected, scores, signature.task, threshold, "hold-out")
    single = take(columns, slice(0, SINGLE_ROWS))
    _compare_single(form, single, scores[:SINGLE_ROWS])
    edge = edge_rows(columns, signature)
    expected, given, kept = _on_edge(model, form, edge, signature)
    largest = max(largest, _compare(expected, given, signature.task, threshold, "edge"))
    _compare_single(form, take(edge, kept), given)
    return largest, scores


def edge_rows(columns: Columns, signature: Signature) -> dict[str, NDArray[Any]]:
    """Return rows that try each column's limits, one at a time around a typical row, then all.

    Missing, zero, one, minus one, the least and largest value seen, tiny, and plus and minus 1e300;
    for text a category never seen, an empty one, and each of the most frequent.
    """
    base = take(columns, slice(0, 1))
    rows = []
    extremes: list[dict[str, Any]] = [{}, {}, {}, {}]
    for c in signature.columns:
        values = _edge_values(columns[c.name], c.kind)
        for value in values:
            rows.append(_with(base, {c.name: value}))
        for one, value in zip(extremes, values, strict=False):
            one[c.name] = value
    rows += [_with(base, one) for one in extremes]
    return join(rows)


def _edge_values(column: NDArray[Any], kind: str) -> list[Any]:
    if kind == "string":
        seen = pd.Series(column).dropna().value_counts()
        return [None, UNSEEN, "", *sorted(seen.index[:20])]
    if kind == "boolean":
        return [np.nan, 0.0, 1.0]
    finite = column[np.isfinite(column)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    if kind == "date":
        return [np.nan, 0.0, low, high, low - 1, high + 1, -FAR_DATE, FAR_DATE]
    ends = [low, high, low - 1, high + 1, 0.5, -0.0, 1e-300, EXTREME, -EXTREME]
    return [np.nan, 0.0, 1.0, -1.0, *ends]


def _with(base: Columns, changes: dict[str, Any]) -> dict[str, NDArray[Any]]:
    row = {name: values.copy() for name, values in base.items()}
    for name, value in changes.items():
        row[name][0] = value
    return row


def _on_edge(
    model: Any, form: Form, edge: Columns, signature: Signature
) -> tuple[NDArray[np.float64], NDArray[np.float64], Any]:
    """Score the edge rows by both; rows that both refuse are left out, and agree."""
    rows = len(next(iter(edge.values())))
    refused = [i for i in range(rows) if _refuses(form, take(edge, slice(i, i + 1)))]
    kept = np.setdiff1d(np.arange(rows), refused)
    if not len(kept):
        raise CompileRefused("the compiled form refuses all edge rows")
    for i in refused:
        if _scored(model, take(edge, slice(i, i + 1)), signature) is not None:
            raise CompileRefused(f"the compiled form refuses edge row {i}, scikit-learn does not")
    expected = _scored(model, take(edge, kept), signature)
    if expected is None:
        alone = (i for i in kept if _scored(model, take(edge, slice(i, i + 1)), signature) is None)
        which = next(alone, "among others")
        raise CompileRefused(f"scikit-learn refuses edge row {which}, the compiled form does not")
    return expected, form.predict(take(edge, kept)), kept


def _refuses(form: Form, row: Columns) -> bool:
    try:
        form.predict(row)
    except DataError:
        return True
    return False


def _scored(model: Any, rows: Columns, signature: Signature) -> NDArray[np.float64] | None:
    """What scikit-learn gives for these rows, None if it refuses them."""
    try:
        with np.errstate(all="ignore"):
            return predict(model, to_frame(rows, signature), signature)
    except Exception:  # a model's own code may raise anything
        return None


def _compare(
    expected: NDArray[np.float64],
    given: NDArray[np.float64],
    task: str,
    threshold: float | None,
    what: str,
) -> float:
    largest = difference(expected, given, task)
    if not largest <= TOLERANCE:
        raise CompileRefused(
            f"the compiled form differs from scikit-learn by {largest:.3g} on {what} rows "
            f"(at most {TOLERANCE} is allowed)"
        )
    flips = 0
    if task == "binary":
        at = 0.5 if threshold is None else threshold
        flips = int(np.count_nonzero((expected >= at) != (given >= at)))
    elif task == "multiclass":
        flips = int(np.count_nonzero(expected.argmax(axis=1) != given.argmax(axis=1)))
    if flips:
        raise CompileRefused(
            f"the compiled form decides {flips} {what} rows otherwise than scikit-learn "
            f"(largest difference {largest:.3g})"
        )
    return largest


def difference(expected: NDArray[np.float64], given: NDArray[np.float64], task: str) -> float:
    """Return the largest difference; values above 1 count relatively for a regression."""
    if expected.shape != given.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        apart = np.abs(expected - given)
        if task == "regression":
            apart /= np.maximum(1.0, np.abs(expected))
    equal = (expected == given) | (np.isnan(expected) & np.isnan(given))
    apart = np.where(equal, 0.0, apart)
    return float("inf") if np.isnan(apart).any() else float(apart.max(initial=0.0))


def _compare_single(form: Form, columns: Columns, batch: NDArray[np.float64]) -> None:
    """Check that a row alone scores as it does among others."""
    if not len(batch):
        return
    alone = [form.predict(take(columns, slice(i, i + 1))) for i in range(len(batch))]
    largest = difference(batch, np.concatenate(alone), "regression")
    if not largest <= SINGLE_TOLERANCE:
        raise CompileRefused(
            f"the compiled form gives a row alone another score than in a batch, by {largest:.3g}"
        )
