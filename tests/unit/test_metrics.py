"""Each metric equals scikit-learn's on the rows repeated as often as they are weighted."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ks_2samp
from sklearn import metrics as sk

from trilho.evaluation.metrics import Binary, Multiclass, Ranked, Regression, metrics, point
from trilho.evaluation.results import METRICS, PRIMARY

K = 3
# few distinct values, so that ties and exact 0 and 1 are common
PROBABILITY = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.floats(0, 1, allow_subnormal=False)
)
NUMBER = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 2.5]), st.floats(-1e4, 1e4, width=32))


def arrays(rows: int, elements: st.SearchStrategy, dtype: type = np.float64):
    return hnp.arrays(dtype, rows, elements=elements)


@st.composite
def weighted(draw: st.DrawFn, y: st.SearchStrategy, score: st.SearchStrategy, width: int = 1):
    """Truth, scores and two weightings: each row once, and counts as a bootstrap draws them."""
    rows = draw(st.integers(1, 25))
    scores = draw(hnp.arrays(np.float64, (rows, width) if width > 1 else rows, elements=score))
    counts = draw(arrays(rows, st.integers(0, 4), np.uint8))
    counts[draw(st.integers(0, rows - 1))] = 1  # a resample of nothing is not one
    truth = draw(arrays(rows, y, np.float64))
    return truth, scores, np.stack((np.ones(rows, np.uint8), counts))


def same(ours: float, theirs: float) -> None:
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12, nan_ok=True)


def quietly(metric, *args, **kwargs) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(metric(*args, **kwargs))


@given(weighted(st.integers(0, 1), PROBABILITY), st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=200, deadline=None)
def test_binary_equals_scikit_learn(case, threshold):
    y, scores, weights = case
    values = Binary(y, scores, threshold).values(weights)
    assert list(values) == list(METRICS["binary"])
    for i, counts in enumerate(weights):
        found = {name: value[i] for name, value in values.items()}
        truth, score = np.repeat(y.astype(int), counts), np.repeat(scores, counts)
        decided = (score >= threshold).astype(int)
        auc = quietly(sk.roc_auc_score, truth, score)
        same(found["roc_auc"], auc)
        same(found["gini"], 2 * auc - 1)
        same(found["log_loss"], quietly(sk.log_loss, truth, score, labels=[0, 1]))
        same(found["brier"], np.mean((truth - score) ** 2))
        same(found["accuracy"], sk.accuracy_score(truth, decided))
        same(found["balanced_accuracy"], quietly(sk.balanced_accuracy_score, truth, decided))
        same(found["precision"], sk.precision_score(truth, decided, zero_division=0))
        same(found["f1"], sk.f1_score(truth, decided, zero_division=0))
        same(found["recall"], sk.recall_score(truth, decided, zero_division=np.nan))
        if truth.any():
            same(found["average_precision"], sk.average_precision_score(truth, score))
        else:
            assert np.isnan(found["average_precision"])
        if 0 < truth.sum() < len(truth):
            same(found["brier"], sk.brier_score_loss(truth, score))
            same(found["ks"], ks_2samp(score[truth == 1], score[truth == 0]).statistic)
        else:
            assert np.isnan(found["ks"])
        same(found["ece"], plain_ece(truth, score))


@given(weighted(st.integers(0, 1), PROBABILITY))
@settings(max_examples=100, deadline=None)
def test_binary_equals_scikit_learn_with_sample_weights(case):
    y, scores, weights = case
    counts = weights[1]
    if len(set(y[counts > 0])) < 2:
        return
    found = {name: value[1] for name, value in Binary(y, scores, 0.5).values(weights).items()}
    decided = scores >= 0.5
    for name, metric in (
        ("roc_auc", sk.roc_auc_score),
        ("average_precision", sk.average_precision_score),
        ("brier", sk.brier_score_loss),
        ("log_loss", sk.log_loss),
    ):
        same(found[name], quietly(metric, y, scores, sample_weight=counts))
    for name, metric in (
        ("accuracy", sk.accuracy_score),
        ("balanced_accuracy", sk.balanced_accuracy_score),
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    ):
        same(found[name], quietly(metric, y, decided, sample_weight=counts))


def plain_ece(y: np.ndarray, scores: np.ndarray) -> float:
    """The definition, bin by bin."""
    total = 0.0
    for i in range(10):
        inside = (scores >= i / 10) & ((scores < (i + 1) / 10) | (i == 9))
        # a bin's edge may lie on either side by rounding
        inside = np.minimum((scores * 10).astype(int), 9) == i if len(scores) else inside
        if inside.any():
            total += inside.mean() * abs(y[inside].mean() - scores[inside].mean())
    return total


@given(weighted(st.integers(0, K - 1), st.floats(0.01, 1), width=K))
@settings(max_examples=150, deadline=None)
def test_multiclass_equals_scikit_learn(case):
    y, raw, weights = case
    scores = raw / raw.sum(axis=1, keepdims=True)
    values = Multiclass(y, scores).values(weights)
    assert list(values) == list(METRICS["multiclass"])
    for i, counts in enumerate(weights):
        found = {name: value[i] for name, value in values.items()}
        truth, score = np.repeat(y.astype(int), counts), np.repeat(scores, counts, axis=0)
        decided = score.argmax(axis=1)
        same(found["accuracy"], sk.accuracy_score(truth, decided))
        same(found["balanced_accuracy"], quietly(sk.balanced_accuracy_score, truth, decided))
        for average in ("macro", "weighted"):
            for name, metric in (
                ("precision", sk.precision_score),
                ("recall", sk.recall_score),
                ("f1", sk.f1_score),
            ):
                theirs = metric(truth, decided, average=average, zero_division=0)
                same(found[f"{name}_{average}"], theirs)
        same(found["log_loss"], quietly(sk.log_loss, truth, score, labels=range(K)))
        same(found["brier"], sk.brier_score_loss(truth, score, labels=range(K)))
        same(found["ece"], plain_ece((decided == truth).astype(float), score.max(axis=1)))
        if len(set(truth)) == K:
            theirs = sk.roc_auc_score(truth, score, multi_class="ovr", average="macro")
            same(found["roc_auc_ovr"], theirs)


@given(weighted(NUMBER, NUMBER))
@settings(max_examples=200, deadline=None)
def test_regression_equals_scikit_learn(case):
    y, scores, weights = case
    values = Regression(y, scores).values(weights)
    assert set(values) == set(METRICS["regression"])
    for i, counts in enumerate(weights):
        found = {name: value[i] for name, value in values.items()}
        truth, predicted = np.repeat(y, counts), np.repeat(scores, counts)
        scale = 1 + np.abs(np.concatenate((truth, predicted))).max()
        for name, metric in (
            ("mse", sk.mean_squared_error),
            ("rmse", sk.root_mean_squared_error),
            ("mae", sk.mean_absolute_error),
            ("mape", sk.mean_absolute_percentage_error),
        ):
            same(found[name], metric(truth, predicted))
        # where truth hardly varies, the sum of its squares has no digits left in either
        if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(truth) > 1e-3 * scale:
            theirs = quietly(sk.r2_score, truth, predicted)
            assert found["r2"] == pytest.approx(theirs, rel=1e-9, abs=1e-9, nan_ok=True)


def test_every_task_names_its_metrics_and_its_primary_one():
    y = np.array([0, 1, 1, 0])
    scores = {
        "binary": np.array([0.1, 0.8, 0.7, 0.4]),
        "multiclass": np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]]),
        "regression": np.array([0.1, 0.8, 0.7, 0.4]),
    }
    for task, given_scores in scores.items():
        found = point(metrics(task, y, given_scores), 4)
        assert list(found) == list(METRICS[task])
        assert PRIMARY[task] in found
        assert np.isfinite(list(found.values())).all()


@given(weighted(st.integers(0, 1), PROBABILITY), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_rows_does_not_matter(case, random):
    y, scores, weights = case
    shuffled = np.array(random.sample(range(len(y)), len(y)))
    one = Binary(y, scores, 0.5).values(weights)
    two = Binary(y[shuffled], scores[shuffled], 0.5).values(weights[:, shuffled])
    for name in one:
        assert one[name] == pytest.approx(two[name], rel=1e-12, abs=1e-12, nan_ok=True)


def test_ranking_looks_only_at_scores_that_a_positive_row_has():
    y = np.array([0, 0, 1, 0, 1, 0, 0])
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.5, 0.5, 0.1])
    ranked = Ranked.of(y == 1, scores)
    assert ranked.start.tolist() == [2, 4]
    assert ranked.end.tolist() == [4, 6]
