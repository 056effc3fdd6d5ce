"""Intervals: valid, deterministic, and the same for a sample of many rows as for all of them."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from trilho.evaluation import bootstrap
from trilho.evaluation.metrics import Binary, Metrics, metrics, point
from trilho.evaluation.results import METRICS

SHIFT, NOISE = 1.0, 0.7  # of positive scores; of the champion's scores
TRUE_AUC = NormalDist().cdf(SHIFT / np.sqrt(2))
TRUE_DIFFERENCE = TRUE_AUC - NormalDist().cdf(SHIFT / np.sqrt(2 * (1 + NOISE**2)))


def simulated(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, and scores of a good and a noisier model whose true ROC AUC is known."""
    y = (rng.random(rows) < 0.3).astype(int)
    scores = rng.normal(SHIFT * y)
    noisier = scores + rng.normal(0, NOISE, rows)
    return y, 1 / (1 + np.exp(-scores)), 1 / (1 + np.exp(-noisier))


def drawn(y, *scores, resamples=400, seed=(1,), **more) -> bootstrap.Draws:
    def build(rows) -> list[Metrics]:
        return [Binary(y[rows], s[rows], 0.5) for s in scores]

    return bootstrap.draw(build, len(y), resamples=resamples, seed=seed, strata=y, **more)


def test_intervals_cover_the_truth_in_about_95_of_100_samples():
    rng = np.random.default_rng(7)
    runs, covered, difference_covered = 400, 0, 0
    for run in range(runs):
        y, scores, noisier = simulated(rng, 300)
        draws = drawn(y, scores, noisier, resamples=500, seed=(run,), workers=1)
        ours, theirs = (point(Binary(y, s, 0.5), len(y))["roc_auc"] for s in (scores, noisier))
        one, two = (values["roc_auc"] for values in draws.values)
        estimate = bootstrap.estimate("roc_auc", ours, one, draws.scale, 0.95)
        paired = bootstrap.difference(ours, theirs, one - two, draws.scale, 0.95)
        covered += estimate.low <= TRUE_AUC <= estimate.high
        difference_covered += paired.low <= TRUE_DIFFERENCE <= paired.high
    assert 0.92 <= covered / runs <= 0.98
    assert 0.92 <= difference_covered / runs <= 0.98


def test_a_sample_of_many_rows_gives_intervals_as_wide_as_all_rows_do():
    y, scores, noisier = simulated(np.random.default_rng(3), 12_000)
    whole = drawn(y, scores, noisier, resamples=1500, cap=12_000)
    part = drawn(y, scores, noisier, resamples=1500, cap=4_000)
    assert whole.scale == 1
    assert part.scale == pytest.approx(1 / np.sqrt(3), abs=0.01)
    for name in METRICS["binary"]:
        for pick in (lambda d: d[0], lambda d: d[1]):
            a, b = np.std(pick(whole.values)[name]), np.std(pick(part.values)[name])
            assert b * part.scale == pytest.approx(a, rel=0.15), name
        a, b = (np.std(d.values[0][name] - d.values[1][name]) for d in (whole, part))
        assert b * part.scale == pytest.approx(a, rel=0.15), name


def test_resamples_are_those_of_scikit_learn_on_repeated_rows():
    y, scores, _ = simulated(np.random.default_rng(5), 200)
    draws = drawn(y, scores, resamples=20).values[0]
    root = np.random.SeedSequence((1,))
    root.spawn(1)
    weights = bootstrap.counts(np.random.default_rng(root.spawn(1)[0]), 20, 200)
    for i, counts in enumerate(weights):
        truth, score = np.repeat(y, counts), np.repeat(scores, counts)
        assert draws["roc_auc"][i] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
        theirs = average_precision_score(truth, score)
        assert draws["average_precision"][i] == pytest.approx(theirs, abs=1e-12)


def test_counts_have_mean_one_and_variance_one():
    table = bootstrap.COUNTS.astype(float)
    assert len(table) == 256
    assert table.mean() == 1
    assert table.var() == pytest.approx(1, abs=0.01)
    counts = bootstrap.counts(np.random.default_rng(0), 300, 1000)
    assert counts.shape == (300, 1000)
    assert counts.mean() == pytest.approx(1, abs=0.01)
    # rows are drawn independently of each other
    assert np.corrcoef(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(0, abs=0.2)


def test_the_number_of_threads_changes_nothing():
    y, scores, noisier = simulated(np.random.default_rng(2), 3_000)
    one, four = (drawn(y, scores, noisier, resamples=300, workers=w) for w in (1, 4))
    for a, b in zip(one.values, four.values, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    other = drawn(y, scores, noisier, resamples=300, seed=(2,))
    assert not np.array_equal(one.values[0]["roc_auc"], other.values[0]["roc_auc"])


def test_a_model_does_not_differ_from_itself():
    y, scores, _ = simulated(np.random.default_rng(2), 500)
    draws = drawn(y, scores, scores)
    for name, value in point(Binary(y, scores, 0.5), len(y)).items():
        paired = draws.values[0][name] - draws.values[1][name]
        found = bootstrap.difference(value, value, paired, draws.scale, 0.95)
        assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_a_metric_that_grows_by_resampling_still_lies_within_its_interval():
    # such as the ece of a calibrated model: every resample is above the value itself
    drawn_above = np.linspace(0.02, 0.06, 401)
    low, high = bootstrap.ends(0.01, drawn_above, 1.0, 0.95)
    assert (low, high) == pytest.approx((0.01 - 0.019, 0.01 + 0.019))
    low, high = bootstrap.ends(0.01, drawn_above, 0.5, 0.95)
    assert (low, high) == pytest.approx((0.01 - 0.0095, 0.01 + 0.0095))


@given(
    st.sampled_from(list(METRICS)),
    st.integers(5, 60),
    st.integers(0, 1000),
    st.sampled_from([0.8, 0.95]),
)
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_value_and_keeps_to_the_metric_s_range(task, rows, seed, confidence):
    rng = np.random.default_rng(seed)
    if task == "regression":
        y, scores = rng.normal(size=rows), rng.normal(size=rows)
    else:
        y = rng.integers(0, 2 if task == "binary" else 3, rows)
        scores = rng.random(rows) if task == "binary" else rng.dirichlet(np.ones(3), rows)
    values = point(metrics(task, y, scores), rows)
    draws = bootstrap.draw(
        lambda kept: [metrics(task, y[kept], scores[kept])], rows, resamples=100, seed=(seed,)
    )
    for name, value in values.items():
        found = bootstrap.estimate(name, value, draws.values[0][name], draws.scale, confidence)
        if found.value is None:
            assert np.isnan(value)
            continue
        if found.low is None:
            continue
        assert found.low <= found.value <= found.high
        if name not in bootstrap.UNBOUNDED_ABOVE:
            assert found.high <= bootstrap.HIGHEST.get(name, 1)
        assert found.low >= bootstrap.LOWEST.get(name, 0)


def test_a_metric_that_most_resamples_leave_undefined_has_no_interval():
    y, scores = np.array([1] + [0] * 30), np.linspace(0, 1, 31)
    draws = drawn(y, scores)
    found = bootstrap.estimate("roc_auc", 0.0, draws.values[0]["roc_auc"], draws.scale, 0.95)
    assert found.value == 0
    assert found.low is None
    assert found.high is None


@pytest.mark.parametrize("positives", [20_000, 400, 30])
def test_the_sample_keeps_the_classes_shares_and_enough_of_a_rare_class(positives):
    rows = 60_000
    y = np.zeros(rows, np.intp)
    y[:positives] = 1
    chosen = bootstrap.sample(rows, 5_000, np.random.default_rng(0), y)
    assert len(np.unique(chosen)) == len(chosen)
    assert 5_000 <= len(chosen) <= 20_002
    assert y[chosen].mean() == pytest.approx(positives / rows, rel=0.1)
    share = len(chosen) / rows
    assert y[chosen].sum() >= min(1_000, positives * min(share, 1))


def test_few_rows_are_all_resampled():
    chosen = bootstrap.sample(100, 100, np.random.default_rng(0), None)
    assert chosen.tolist() == list(range(100))
    assert len(bootstrap.sample(101, 100, np.random.default_rng(0), None)) == 100
