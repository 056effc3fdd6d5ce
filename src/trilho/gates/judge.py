"""Every gate, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from trilho import config
from trilho.errors import UsageError, nearest
from trilho.evaluation.results import (
    METRICS,
    Comparison,
    Difference,
    Estimate,
    Evaluation,
    Measurements,
)
from trilho.gates.rules import measured, number, proven, searched, skip
from trilho.gates.verdict import GateResult, Verdict, Word

# Margin of the primary metric where the configuration names none.
MARGIN = 0.01
# A primary metric from here on is too good to be taken on trust.
TOO_GOOD = 0.999


def judge(
    evaluation: Evaluation,
    comparison: Comparison | None,
    measurements: Measurements,
    gates: config.Gates,
    *,
    candidate: str,
    serving: str = "compiled",
    serving_reason: str | None = None,
    failures: int = 0,
) -> Verdict:
    """Hold a candidate against every gate.

    Parameters
    ----------
    evaluation
        The candidate on the hold-out.
    comparison
        The candidate beside the champion; None when there is no champion yet.
    measurements
        Time and size.
    gates
        The bounds.
    candidate
        The candidate's digest.
    serving, serving_reason
        As in the bundle's manifest: the form that will serve, and why it is not the compiled one.
    failures
        What the schema found wrong in the dataset.

    Returns
    -------
    Verdict
        REJECT when any gate fails, else HOLD when any is unsure, else PROMOTE.

    Raises
    ------
    UsageError
        `gates` name a metric that the task does not have.
    """
    check(gates, evaluation.task)
    results = [
        _data(failures),
        *_limits(evaluation, gates),
        *_champion(evaluation, comparison, gates),
        *_slices(evaluation, comparison, gates.slices),
        *_fairness(evaluation, gates.fairness),
        *_calibration(evaluation, gates),
        *_leakage(evaluation, comparison, gates),
        *_latency(measurements, gates.latency),
        *_size(measurements, gates),
        _serving(serving, serving_reason),
    ]
    statuses = {r.status for r in results}
    word: Word = "PROMOTE"
    if "fail" in statuses:
        word = "REJECT"
    elif "unsure" in statuses:
        word = "HOLD"
    return Verdict(
        verdict=word,
        candidate=candidate,
        champion=comparison.champion_digest if comparison else None,
        results=results,
        summary=_summary(word, results, evaluation, comparison),
    )


def check(gates: config.Gates, task: str) -> None:
    """Refuse gates that name a metric which the task does not have.

    Raises
    ------
    UsageError
        Naming the key, with the nearest metric there is.
    """
    known = list(METRICS[task])
    named = [(f"gates.limits.{m}", m) for m in gates.limits or {}]
    named += [(f"gates.champion.{m}", m) for m in gates.champion or {}]
    named += [("gates.slices.metric", gates.slices.metric)] if gates.slices.metric else []
    for key, metric in named:
        if metric not in known:
            raise UsageError(
                f"{key}: '{metric}' is not a metric of a {task} model{nearest(metric, known)}",
                hint=f"Known metrics: {', '.join(known)}.",
            )


def default_limits(task: str) -> dict[str, config.Limit]:
    """Return the limits where the configuration names none: better than guessing."""
    if task == "regression":
        return {"r2": config.Limit(min=0.01)}
    return {"roc_auc" if task == "binary" else "roc_auc_ovr": config.Limit(min=0.55)}


# --- the gates ------------------------------------------------------------------------------


def _data(failures: int) -> GateResult:
    return GateResult(
        gate="data",
        subject="schema",
        status="fail" if failures else "pass",
        value=float(failures),
        bound=0.0,
        message=f"The dataset breaks its schema in {failures:,} places: see `trilho validate`."
        if failures
        else "The dataset keeps to its schema.",
    )


def _limits(evaluation: Evaluation, gates: config.Gates) -> Iterator[GateResult]:
    limits = default_limits(evaluation.task) if gates.limits is None else gates.limits
    if not limits:
        yield skip("limits", "The configuration sets no limit.")
    for metric, limit in limits.items():
        for bound, at_least in ((limit.min, True), (limit.max, False)):
            if bound is not None:
                estimate = evaluation.metrics.get(metric, Estimate(value=None))
                yield proven("limits", metric, estimate, bound, at_least, evaluation.rows)


def _champion(
    evaluation: Evaluation, comparison: Comparison | None, gates: config.Gates
) -> Iterator[GateResult]:
    if comparison is None:
        yield skip("champion", "There is no champion yet, so only absolute bounds count.")
        return
    if comparison.impossible is not None:
        yield GateResult(
            gate="champion",
            subject="the champion",
            status="unsure",
            message=f"The champion cannot be compared with: {comparison.impossible}",
        )
        return
    margins = {evaluation.primary: MARGIN} if gates.champion is None else gates.champion
    if not margins:
        yield skip("champion", "The configuration sets no margin to the champion.")
    for metric, margin in margins.items():
        larger = METRICS[evaluation.task][metric]
        found = comparison.metrics.get(metric)
        yield proven(
            "champion",
            metric,
            _estimate(found),
            -margin if larger else margin,
            larger,
            comparison.rows,
            compared=True,
        )
    for caveat in comparison.caveats:
        yield GateResult(gate="champion", subject="caveat", status="warn", message=caveat)


def _slices(
    evaluation: Evaluation, comparison: Comparison | None, gate: config.SliceGate
) -> Iterator[GateResult]:
    metric = gate.metric or evaluation.primary
    larger = METRICS[evaluation.task][metric]
    if not evaluation.slices:
        yield skip("slices", "The configuration names no slices.")
        return

    big = [s for s in evaluation.slices if s.rows >= gate.min_rows]
    small = len(evaluation.slices) - len(big)
    for bound, at_least in ((gate.min, True), (gate.max, False)):
        if bound is not None:
            judged = [(f"{metric} of {s.column}={s.label}", s.metrics.get(metric)) for s in big]
            yield from searched(
                "slices",
                judged,
                bound,
                at_least,
                evaluation.confidence,
                evaluation.rows,
                small=small,
            )
    if comparison is not None and comparison.impossible is None:
        compared = [
            (f"{metric} of {s.column}={s.label}", _estimate(s.metrics.get(metric)))
            for s in comparison.slices
            if s.rows >= gate.min_rows
        ]
        bound = -gate.margin if larger else gate.margin
        yield from searched(
            "slices",
            compared,
            bound,
            larger,
            comparison.confidence,
            comparison.rows,
            small=small,
            compared=True,
        )
    elif gate.min is None and gate.max is None:
        yield skip("slices", "Without a champion or an absolute bound slices are only shown.")


def _fairness(evaluation: Evaluation, gate: config.FairnessGate) -> Iterator[GateResult]:
    if not evaluation.fairness:
        yield skip("fairness", "The configuration names no protected column, or none applies.")
        return
    for name, bound in (
        ("selection_rate_gap", gate.selection_rate_gap),
        ("true_positive_rate_gap", gate.true_positive_rate_gap),
    ):
        gaps = [(f"{name} of {f.column}", getattr(f, name)) for f in evaluation.fairness]
        yield from searched("fairness", gaps, bound, False, evaluation.confidence, evaluation.rows)


def _calibration(evaluation: Evaluation, gates: config.Gates) -> Iterator[GateResult]:
    if evaluation.task == "regression":
        yield skip("calibration", "A regression has no probabilities.")
        return
    ece = evaluation.metrics.get("ece", Estimate(value=None))
    yield proven("calibration", "ece", ece, gates.calibration, False, evaluation.rows)


def _leakage(
    evaluation: Evaluation, comparison: Comparison | None, gates: config.Gates
) -> Iterator[GateResult]:
    bound = gates.leakage
    strongest = sorted(evaluation.single_feature.items(), key=lambda item: -item[1])
    leaks = [item for item in strongest if item[1] > bound]
    for column, strength in leaks or strongest[:1]:
        yield GateResult(
            gate="leakage",
            subject=column,
            status="fail" if leaks else "pass",
            value=strength,
            bound=bound,
            message=f"This column alone ranks the target with {number(strength)}: does it know the "
            "outcome? Drop it, or raise gates.leakage."
            if leaks
            else "No column alone ranks the target suspiciously well.",
        )
    primary = evaluation.primary
    value = evaluation.metrics.get(primary, Estimate(value=None)).value
    if value is not None and value >= TOO_GOOD and bound < 1 and not leaks:
        before = comparison.metrics.get(primary) if comparison else None
        if before is None or before.champion is None or before.champion < TOO_GOOD:
            yield GateResult(
                gate="leakage",
                subject=primary,
                status="unsure",
                value=value,
                bound=TOO_GOOD,
                message=f"A {primary} of {number(value)} is too good to be taken on trust: "
                "look for columns that together know the outcome, or set gates.leakage to 1.",
            )


def _latency(measurements: Measurements, gate: config.LatencyGate) -> Iterator[GateResult]:
    time, before = measurements.row_microseconds, measurements.champion_row_microseconds
    yield measured("latency", "microseconds a row", time, gate.max_microseconds)
    if before:
        yield measured("latency", "times the champion's", time / before, gate.max_ratio)


def _size(measurements: Measurements, gates: config.Gates) -> Iterator[GateResult]:
    yield measured("size", "megabytes", measurements.model_bytes / 1e6, gates.size_megabytes)


def _serving(serving: str, reason: str | None) -> GateResult:
    if serving == "compiled":
        message = "The compiled form gives the same predictions on every row it was proven on."
        return GateResult(gate="serving", subject="compiled", status="pass", message=message)
    why = f": {reason.rstrip('.')}" if reason else ""
    message = f"Served by scikit-learn from the larger image, because it was not compiled{why}."
    return GateResult(gate="serving", subject=serving, status="warn", message=message)


def _estimate(found: Difference | None) -> Estimate:
    if found is None:
        return Estimate(value=None)
    return Estimate(value=found.difference, low=found.low, high=found.high)


def _summary(
    word: Word, results: list[GateResult], evaluation: Evaluation, comparison: Comparison | None
) -> str:
    decisive = [r for r in results if r.status == ("fail" if word == "REJECT" else "unsure")]
    if word != "PROMOTE":
        first = decisive[0]
        of = f" ({first.subject})" if first.subject else ""
        message = first.message.rstrip(".")
        rows = (
            f"; about {first.rows_needed:,} hold-out rows would decide" if first.rows_needed else ""
        )
        more = len(decisive) - 1
        others = f"; {more} more {'finding' if more == 1 else 'findings'} like it" if more else ""
        return f"{word.capitalize()}: {first.gate}{of}: {message}{rows}{others}."
    primary = evaluation.primary
    value = evaluation.metrics[primary].value
    text = f"Promote: {primary} {number(value)} on {evaluation.rows:,} hold-out rows"
    compared = comparison.metrics.get(primary) if comparison else None
    if compared is not None and compared.difference is not None:
        text += f", {compared.difference:+.4f} to the champion"
    return f"{text}; every gate holds."
