"""The rules by which a value is held against its bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isfinite, log10
from statistics import NormalDist

from trilho.evaluation.results import Estimate
from trilho.gates.verdict import GateResult, Status

# Beyond this many rows an unsure gate is said to lie at its bound.
MOST_ROWS = 100_000_000


def proven(
    gate: str,
    subject: str,
    found: Estimate,
    bound: float,
    at_least: bool,
    rows: int,
    *,
    compared: bool = False,
) -> GateResult:
    """Hold one value of the whole hold-out: inside for certain, outside for certain, or unsure."""
    value, low, high = (finite(v) for v in (found.value, found.low, found.high))
    what = "difference to the champion" if compared else subject
    side, needed = _side(at_least), None
    measured = f"{number(value)} ({number(low)} to {number(high)})"
    status: Status = "pass"
    if value is None:
        status, message = "fail", f"{subject} is not defined on the hold-out: it cannot be judged."
    elif low is None or high is None:
        status, message = "unsure", f"Too few hold-out rows to give {subject} an interval."
    else:
        inside, worse, better = _inside(found, bound, at_least)
        if worse >= 0:
            message = f"The {what} of {number(value)} is within {number(bound)}."
        elif better < 0:
            status = "fail"
            message = f"The {what} of {measured} is {side} {number(bound)} for certain."
        else:
            status = "unsure"
            message = f"The {what} of {measured} may be {side} {number(bound)}."
            needed = _rows_needed(rows, inside, inside - worse if inside > 0 else better - inside)
    return GateResult(
        gate=gate,
        subject=subject,
        status=status,
        value=value,
        bound=bound,
        low=low,
        high=high,
        message=message,
        rows_needed=needed,
    )


def searched(
    gate: str,
    found: Sequence[tuple[str, Estimate | None]],
    bound: float,
    at_least: bool,
    confidence: float,
    rows: int,
    *,
    small: int = 0,
    compared: bool = False,
) -> Iterator[GateResult]:
    """Search many values for one that breaks the bound: certain ones fail, likely ones are unsure.

    Among many intervals some miss by chance, so they are widened until all of them together keep
    the confidence (Bonferroni; the wider ends follow from the normal distribution).
    """
    known = [(name, e) for name, e in found if e is not None and finite(e.value) is not None]
    wider = _widening(confidence, len(known))
    what, side = "The difference to the champion" if compared else "It", _side(at_least)
    kept: list[tuple[float, str, Estimate]] = []
    for subject, estimate in known:
        inside, _, better = _inside(estimate, bound, at_least)
        reach = wider * (better - inside)
        # beyond the bound by its value; beside a champion it must also be worse for certain
        likely = inside < 0 and (not compared or inside - abs(bound) + reach < 0)
        if not likely:
            kept.append((inside, subject, estimate))
            continue
        certain = inside + reach < 0
        how = "for certain" if certain else "by its value, but not for certain"
        yield GateResult(
            gate=gate,
            subject=subject,
            status="fail" if certain else "unsure",
            value=estimate.value,
            bound=bound,
            low=estimate.low,
            high=estimate.high,
            message=f"{what} is {side} {number(bound)} {how}.",
            rows_needed=None if certain else _rows_needed(rows, inside, reach),
        )
    note = f" {small} smaller ones were not judged." if small else ""
    if kept:
        _, subject, worst = min(kept, key=lambda item: item[:2])
        many = f", the worst of {len(kept)}" if len(kept) > 1 else ""
        yield GateResult(
            gate=gate,
            subject=subject,
            status="pass",
            value=worst.value,
            bound=bound,
            low=worst.low,
            high=worst.high,
            message=f"Not certainly beyond {number(bound)}{many}.{note}",
        )
    elif not known:
        yield skip(gate, f"No group has enough rows to be judged.{note}")


def measured(gate: str, subject: str, value: float, bound: float) -> GateResult:
    """Hold a measurement, which has no interval."""
    fine = value <= bound
    return GateResult(
        gate=gate,
        subject=subject,
        status="pass" if fine else "fail",
        value=value,
        bound=bound,
        message=f"{number(value)} {subject}, at most {number(bound)} accepted.",
    )


def _inside(found: Estimate, bound: float, at_least: bool) -> tuple[float, float, float]:
    """Return how far inside of the bound the value and its interval's worse and better end are."""
    assert found.value is not None
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    if at_least:
        return found.value - bound, low - bound, high - bound
    return bound - found.value, bound - high, bound - low


def _side(at_least: bool) -> str:
    return "below" if at_least else "above"


def skip(gate: str, message: str) -> GateResult:
    return GateResult(gate=gate, subject="", status="skip", message=message)


def _widening(confidence: float, tests: int) -> float:
    """Return by how much an interval grows when `tests` of them share the confidence."""
    tail = (1 - confidence) / 2
    z = NormalDist().inv_cdf
    return z(1 - tail / max(1, tests)) / z(1 - tail)


def _rows_needed(rows: int, distance: float, reach: float) -> int | None:
    """Return the rows at which the interval no longer reaches the bound, to two digits.

    An interval narrows with the square root of the rows. None: so many that rows cannot decide.
    """
    if distance == 0:
        return None
    needed = rows * (reach / distance) * (reach / distance)
    if needed > MOST_ROWS:
        return None
    step: int = 10 ** max(0, int(log10(max(needed, 1))) - 1)
    return max(ceil(needed / step) * step, rows + 1)


def finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
