"""The rules of the gates and the verdict."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trilho import config
from trilho.bundle import canonical
from trilho.errors import UsageError
from trilho.evaluation import compare, evaluate
from trilho.evaluation.results import (
    METRICS,
    PRIMARY,
    Comparison,
    Difference,
    Estimate,
    Evaluation,
    Fairness,
    Measurements,
    Slice,
    SliceDifference,
)
from trilho.gates import MARGIN, GateResult, Verdict, default_limits, judge

DOCS = Path(__file__).parents[2] / "docs" / "gates.md"
FAST = Measurements(row_microseconds=30, batch_microseconds=2, model_bytes=1_000_000)
RANK = {"REJECT": 0, "HOLD": 1, "PROMOTE": 2}


def around(value: float, reach: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach)


def moved(by: float, reach: float = 0.004) -> Difference:
    return Difference(
        candidate=0.78 + by, champion=0.78, difference=by, low=by - reach, high=by + reach
    )


def evaluation(task: str = "binary", **metrics: Estimate) -> Evaluation:
    found = {"roc_auc": around(0.78), "ece": around(0.02), "brier": around(0.14)}
    if task != "binary":
        found = {PRIMARY[task]: around(0.78), "ece": around(0.02)}
    return Evaluation(
        task=task,
        primary=PRIMARY[task],
        rows=7500,
        resamples=2000,
        confidence=0.95,
        metrics=found | metrics,
    )


def comparison(**metrics: Difference) -> Comparison:
    return Comparison(
        champion_digest="sha256:c", rows=7500, metrics={"roc_auc": moved(0.001)} | metrics
    )


def verdict(
    of: Evaluation | None = None,
    beside: Comparison | None = None,
    gates: dict | None = None,
    measurements: Measurements = FAST,
    **more,
) -> Verdict:
    return judge(
        of or evaluation(),
        beside,
        measurements,
        config.Gates.model_validate(gates or {}),
        candidate="sha256:n",
        **more,
    )


def result(found: Verdict, gate: str) -> GateResult:
    """The worst result of one gate."""
    order = ["fail", "unsure", "warn", "pass", "skip"]
    return min((r for r in found.results if r.gate == gate), key=lambda r: order.index(r.status))


def test_every_gate_speaks_and_a_good_candidate_is_promoted():
    found = verdict(evaluation(), comparison())
    assert found.verdict == "PROMOTE"
    assert {r.gate for r in found.results} == {
        "data", "limits", "champion", "slices", "fairness", "calibration", "latency", "size",
        "serving",
    }  # fmt: skip
    assert found.summary == (
        "Promote: roc_auc 0.78 on 7,500 hold-out rows, +0.0010 to the champion; every gate holds."
    )
    assert (found.candidate, found.champion) == ("sha256:n", "sha256:c")
    assert msgspec.json.decode(canonical(found), type=Verdict) == found


@pytest.mark.parametrize(
    ("value", "reach", "status", "rows"),
    [
        (0.75, 0.01, "pass", None),
        (0.71, 0.01, "pass", None),  # the end of the interval lies at the bound
        (0.705, 0.01, "unsure", 30_000),  # twice too wide: four times the rows
        (0.695, 0.01, "unsure", 30_000),
        (0.70, 0.01, "unsure", None),  # at the bound no number of rows decides
        (0.68, 0.01, "fail", None),
        (0.70, 0.0, "pass", None),
    ],
)
def test_an_interval_inside_passes_outside_fails_astride_is_unsure(value, reach, status, rows):
    gates = {"limits": {"roc_auc": {"min": 0.7}}}
    found = result(verdict(evaluation(roc_auc=around(value, reach)), gates=gates), "limits")
    assert found.status == status
    assert found.rows_needed == rows


def test_limits_hold_from_both_sides():
    gates = {"limits": {"brier": {"min": 0.05, "max": 0.12}}}
    found = [r for r in verdict(gates=gates).results if r.gate == "limits"]
    assert [(r.status, r.bound) for r in found] == [("pass", 0.05), ("fail", 0.12)]


@pytest.mark.parametrize("task", METRICS)
def test_no_better_than_guessing_is_rejected_by_default(task):
    guess = {"binary": 0.5, "multiclass": 0.5, "regression": 0.0}[task]
    primary = PRIMARY[task]
    found = verdict(evaluation(task, **{primary: around(guess, 0.009)}))
    assert found.verdict == "REJECT"
    assert result(found, "limits").status == "fail"
    assert verdict(evaluation(task)).verdict == "PROMOTE"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_metric_without_a_value_never_passes(value):
    found = verdict(evaluation(roc_auc=Estimate(value=value)))
    assert found.verdict == "REJECT"


def test_a_metric_without_an_interval_holds():
    assert verdict(evaluation(roc_auc=Estimate(value=0.9))).verdict == "HOLD"


@pytest.mark.parametrize(
    ("metric", "by", "word"),
    [
        ("roc_auc", 0.02, "PROMOTE"),
        ("roc_auc", -0.005, "PROMOTE"),
        ("roc_auc", -0.008, "HOLD"),
        ("roc_auc", -0.012, "HOLD"),
        ("roc_auc", -0.02, "REJECT"),
        ("brier", -0.02, "PROMOTE"),  # smaller is better
        ("brier", 0.008, "HOLD"),
        ("brier", 0.02, "REJECT"),
    ],
)
def test_a_champion_may_be_missed_by_the_margin_only(metric, by, word):
    found = verdict(None, comparison(**{metric: moved(by)}), {"champion": {metric: 0.01}})
    assert found.verdict == word
    if word == "HOLD":
        assert result(found, "champion").rows_needed > 7500
        assert "hold-out rows would decide" in found.summary


def test_without_a_margin_given_the_primary_metric_has_one():
    assert result(verdict(None, comparison()), "champion").bound == -MARGIN


def test_a_champion_that_cannot_be_compared_with_holds():
    beside = Comparison(champion_digest="sha256:c", impossible="column PAY_1 is gone")
    found = verdict(None, beside)
    assert found.verdict == "HOLD"
    assert "column PAY_1 is gone" in found.summary


def test_caveats_are_told_and_change_nothing():
    beside = msgspec.structs.replace(comparison(), caveats=["another split"])
    found = verdict(None, beside)
    assert found.verdict == "PROMOTE"
    assert result(found, "champion").message == "another split"


def sliced(differences: list[float], reach: float = 0.03, rows: int = 300) -> Verdict:
    labels = [str(i) for i in range(len(differences))]
    metrics = {"roc_auc": around(0.75, 0.05)}
    of = msgspec.structs.replace(
        evaluation(),
        slices=[Slice(column="c", label=x, rows=rows, metrics=metrics) for x in labels],
    )
    beside = msgspec.structs.replace(
        comparison(),
        slices=[
            SliceDifference(column="c", label=x, rows=rows, metrics={"roc_auc": moved(d, reach)})
            for x, d in zip(labels, differences, strict=True)
        ],
    )
    return verdict(of, beside)


def test_a_slice_fails_only_when_it_is_certain_among_all_slices():
    # one slice of one: 0.05 + 0.03 is beyond for certain; one of forty: not
    assert sliced([-0.085]).verdict == "REJECT"
    assert sliced([-0.085] + [0.0] * 39).verdict == "HOLD"
    assert sliced([-0.12] + [0.0] * 39).verdict == "REJECT"
    # worse by its value, but not certainly worse at all
    assert sliced([-0.06], reach=0.07).verdict == "PROMOTE"
    found = sliced([-0.12, 0.01, -0.2])
    assert [r.subject for r in found.results if r.gate == "slices" and r.status == "fail"] == [
        "roc_auc of c=0",
        "roc_auc of c=2",
    ]


def test_small_slices_are_not_judged():
    found = sliced([-0.4], rows=199)
    assert found.verdict == "PROMOTE"
    assert "1 smaller" in result(found, "slices").message


def test_twenty_equal_slices_raise_no_storm():
    rng = np.random.default_rng(0)
    sd, words = 0.03, []
    for _ in range(200):
        words.append(sliced(list(rng.normal(0, sd, 20)), reach=1.96 * sd).verdict)
    assert words.count("PROMOTE") >= 195


def test_an_absolute_bound_of_slices_needs_no_champion():
    metrics = {"roc_auc": around(0.6, 0.02)}
    of = msgspec.structs.replace(
        evaluation(), slices=[Slice(column="c", label="x", rows=500, metrics=metrics)]
    )
    assert verdict(of).verdict == "PROMOTE"
    assert verdict(of, gates={"slices": {"min": 0.65}}).verdict == "REJECT"
    assert verdict(of, gates={"slices": {"min": 0.61}}).verdict == "HOLD"
    assert verdict(of, gates={"slices": {"min": 0.59}}).verdict == "PROMOTE"


@pytest.mark.parametrize(
    ("gap", "word"), [(0.1, "PROMOTE"), (0.19, "PROMOTE"), (0.21, "HOLD"), (0.3, "REJECT")]
)
def test_fairness_gaps(gap, word):
    of = msgspec.structs.replace(
        evaluation(),
        fairness=[
            Fairness(
                column="SEX",
                groups=[],
                selection_rate_gap=around(0.05, 0.02),
                true_positive_rate_gap=around(gap, 0.05),
            )
        ],
    )
    found = verdict(of)
    assert found.verdict == word
    if word != "PROMOTE":
        assert result(found, "fairness").subject == "true_positive_rate_gap of SEX"


def test_calibration_is_proven_too():
    assert verdict(evaluation(ece=around(0.095, 0.01))).verdict == "HOLD"
    assert verdict(evaluation(ece=around(0.15, 0.01))).verdict == "REJECT"


def test_leaks_are_named():
    of = msgspec.structs.replace(evaluation(), single_feature={"a": 0.7, "b": 0.99, "c": 1.0})
    found = verdict(of)
    assert found.verdict == "REJECT"
    assert [r.subject for r in found.results if r.gate == "leakage"] == ["c", "b"]
    assert verdict(of, gates={"leakage": 1}).verdict == "PROMOTE"


def test_a_perfect_score_is_held_until_someone_accepts_it():
    perfect = evaluation(roc_auc=Estimate(value=1.0, low=1.0, high=1.0))
    assert verdict(perfect).verdict == "HOLD"
    assert verdict(perfect, gates={"leakage": 1}).verdict == "PROMOTE"
    same = Difference(candidate=1.0, champion=1.0, difference=0.0, low=0.0, high=0.0)
    assert verdict(perfect, comparison(roc_auc=same)).verdict == "PROMOTE"


def test_latency_and_size_are_held_as_measured():
    slow = Measurements(
        row_microseconds=400, batch_microseconds=2, model_bytes=1, champion_row_microseconds=50
    )
    assert verdict(measurements=slow).verdict == "REJECT"
    assert verdict(measurements=slow, gates={"latency": {"max_ratio": 8}}).verdict == "PROMOTE"
    gates = {"latency": {"max_ratio": 8, "max_microseconds": 399}}
    assert verdict(measurements=slow, gates=gates).verdict == "REJECT"
    assert verdict(gates={"size_megabytes": 0.9}).verdict == "REJECT"


def test_a_model_that_was_not_compiled_is_a_warning():
    found = verdict(serving="sklearn", serving_reason="KNeighborsClassifier is not known")
    assert found.verdict == "PROMOTE"
    assert result(found, "serving").status == "warn"
    assert "KNeighborsClassifier is not known" in result(found, "serving").message


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"limits": {"roc_acu": {"min": 0}}}, r"gates.limits.roc_acu: .*did you mean 'roc_auc'\?"),
        ({"champion": {"rmse": 1}}, r"gates.champion.rmse: 'rmse' is not a metric of a binary"),
        ({"slices": {"metric": "recal"}}, r"gates.slices.metric: .*did you mean 'recall'\?"),
    ],
)
def test_an_unknown_metric_is_a_usage_error(gates, said):
    with pytest.raises(UsageError, match=said):
        verdict(gates=gates)


# --- on real scores -----------------------------------------------------------------------------

ROWS = 400
EVALUATION = config.Evaluation(resamples=200, slices=["group"], fairness=["group"])
# calibration is not ranking: worse scores may be better calibrated, and decide more alike
GATES = config.Gates(
    calibration=1.0,
    fairness=config.FairnessGate(selection_rate_gap=1, true_positive_rate_gap=1),
    slices=config.SliceGate(min_rows=50),
)


def judged(y: np.ndarray, scores: np.ndarray, champion: np.ndarray) -> Verdict:
    rows = {
        "task": "binary",
        "y": y,
        "scores": scores,
        "frame": pd.DataFrame({"group": np.where(np.arange(len(y)) % 2, "a", "b")}),
        "ids": np.arange(len(y)).astype(str),
    }
    beside = compare(EVALUATION, **rows, champion_scores=champion, champion_digest="sha256:c")
    return judge(evaluate(EVALUATION, **rows), beside, FAST, GATES, candidate="sha256:n")


def simulated(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(ROWS) < 0.4).astype(int)
    return y, rng.normal(1.8 * y - 0.9)


def probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_model_is_promoted_over_itself(seed):
    y, logit = simulated(seed)
    found = judged(y, probability(logit), probability(logit))
    assert found.verdict == "PROMOTE", found.summary
    assert result(found, "champion").value == 0


@given(st.integers(0, 10_000), st.lists(st.floats(0, 4), min_size=2, max_size=3))
@settings(max_examples=15, deadline=None)
def test_worse_scores_never_get_a_better_verdict(seed, steps):
    y, logit = simulated(seed)
    champion = probability(logit)
    # each row moves towards the wrong side
    words = [
        judged(y, probability(logit - step * (2 * y - 1)), champion).verdict
        for step in sorted(steps)
    ]
    ranks = [RANK[word] for word in words]
    assert ranks == sorted(ranks, reverse=True)


# --- what the documentation says ----------------------------------------------------------------


def test_the_documented_defaults_are_the_defaults():
    found = dict(
        re.findall(r"^\| `gates\.([\w.]+)` \| ([^|]+?) \|", DOCS.read_text(), re.MULTILINE)
    )
    gates = config.Gates()
    assert found == {
        "limits": "; ".join(
            f"{metric} at least {limit.min:g} ({task})"
            for task in METRICS
            for metric, limit in default_limits(task).items()
        ),
        "champion": f"the primary metric, {MARGIN:g}",
        "slices.metric": "the primary metric",
        "slices.min": "none",
        "slices.max": "none",
        "slices.margin": f"{gates.slices.margin:g}",
        "slices.min_rows": f"{gates.slices.min_rows:g}",
        "fairness.selection_rate_gap": f"{gates.fairness.selection_rate_gap:g}",
        "fairness.true_positive_rate_gap": f"{gates.fairness.true_positive_rate_gap:g}",
        "calibration": f"{gates.calibration:g}",
        "leakage": f"{gates.leakage:g}",
        "latency.max_microseconds": f"{gates.latency.max_microseconds:,.0f}",
        "latency.max_ratio": f"{gates.latency.max_ratio:g}",
        "size_megabytes": f"{gates.size_megabytes:g}",
    }
    assert gates.slices.min is gates.slices.max is gates.slices.metric is None
    listed = {f"{a}.{b}" if b else a for a, b in (k.partition(".")[::2] for k in found)}
    for name, value in gates:
        keys = (
            [f"{name}.{k}" for k, _ in value] if isinstance(value, config.types.Section) else [name]
        )
        assert set(keys) <= listed
