"""Each gate gets a candidate that was sabotaged for real, and must reject it by itself.

Every case is judged twice: with the gates as they are, where the one gate that is meant must fail,
and with that gate's bound wide open, where the same candidate must pass. So it was this gate that
bit, and no other.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from trilho import config
from trilho.config import SliceBy
from trilho.errors import RejectedError
from trilho.evaluation import compare, evaluate
from trilho.evaluation.results import Measurements
from trilho.gates import Verdict, judge

DATA = Path(__file__).parents[2] / "data" / "credit_default.csv"
TARGET, ID = "default_next_month", "ID"
OLD = 55  # the slice that is ruined starts at this age
SETTINGS = config.Evaluation(
    resamples=500,
    slices=[SliceBy(column="AGE", bins=[25, 35, 45, OLD]), "SEX", "EDUCATION"],
    fairness=["SEX"],
)
HONEST = Measurements(row_microseconds=30, batch_microseconds=2, model_bytes=300_000)


@dataclass
class Holdout:
    train: pd.DataFrame
    y_train: np.ndarray
    test: pd.DataFrame
    y: np.ndarray
    ids: np.ndarray
    champion: np.ndarray = field(default_factory=lambda: np.zeros(0))


def boosted(seed: int = 1, **more) -> HistGradientBoostingClassifier:
    # a share of the columns for each split, so that another seed is another model
    settings = {"max_iter": 40, "max_leaf_nodes": 15, "max_features": 0.5, "random_state": seed}
    return HistGradientBoostingClassifier(**(settings | more))


@pytest.fixture(scope="module")
def data() -> Holdout:
    frame = pd.read_csv(DATA)
    held = np.random.default_rng(42).random(len(frame)) < 0.25
    x, y = frame.drop(columns=[TARGET, ID]), frame[TARGET].to_numpy()
    found = Holdout(x[~held], y[~held], x[held], y[held], frame[ID][held].astype(str).to_numpy())
    found.champion = scored(found, boosted(seed=2))
    return found


def scored(data: Holdout, model, y=None) -> np.ndarray:
    y = data.y_train if y is None else y
    # on a busy machine the threads of small models only wait for each other
    with threadpool_limits(1):
        return model.fit(data.train, y).predict_proba(data.test)[:, 1]


@pytest.fixture(scope="module")
def honest(data) -> np.ndarray:
    return scored(data, boosted())


def verdict(
    data: Holdout,
    scores: np.ndarray,
    gates: dict | None = None,
    *,
    champion: bool = True,
    measurements: Measurements = HONEST,
    frame: pd.DataFrame | None = None,
    failures: int = 0,
    settings: config.Evaluation = SETTINGS,
) -> Verdict:
    rows = {
        "task": "binary",
        "y": data.y,
        "scores": scores,
        "frame": data.test if frame is None else frame,
        "ids": data.ids,
    }
    beside = (
        compare(settings, **rows, champion_scores=data.champion, champion_digest="sha256:c")
        if champion
        else None
    )
    return judge(
        evaluate(settings, **rows),
        beside,
        measurements,
        config.Gates.model_validate(gates or {}),
        candidate="sha256:n",
        failures=failures,
    )


def failing(found: Verdict) -> set[str]:
    return {r.gate for r in found.results if r.status == "fail"}


def bites(data: Holdout, gate: str, scores: np.ndarray, *, wide: dict, gates=None, **more) -> None:
    """Assert that `gate` alone rejects the scores, and that opening it lets them through."""
    gates = gates or {}
    found = verdict(data, scores, gates, **more)
    assert found.verdict == "REJECT", found.summary
    assert failing(found) == {gate}, found.summary
    assert gate in found.summary
    opened = verdict(data, scores, gates | wide, **more)
    assert opened.verdict == "PROMOTE", opened.summary


def test_the_honest_candidate_is_promoted(data, honest):
    for champion in (True, False):
        found = verdict(data, honest, champion=champion)
        assert found.verdict == "PROMOTE", found.summary


def test_the_champion_itself_is_promoted(data):
    assert verdict(data, data.champion).verdict == "PROMOTE"


def test_shuffled_labels(data):
    shuffled = np.random.default_rng(0).permutation(data.y_train)
    scores = scored(data, boosted(), shuffled)
    bites(data, "limits", scores, champion=False, wide={"limits": {"roc_auc": {"min": 0}}})


def test_constant_predictions(data):
    scores = np.full(len(data.y), data.y_train.mean())
    bites(data, "limits", scores, champion=False, wide={"limits": {"roc_auc": {"min": 0}}})


def test_worse_than_the_champion(data):
    weak = boosted(max_iter=3, max_leaf_nodes=4, learning_rate=0.3)
    settings = SETTINGS.model_copy(update={"slices": []})
    bites(
        data,
        "champion",
        scored(data, weak),
        settings=settings,
        wide={"champion": {"roc_auc": 1}},
    )


def test_a_leaked_target(data):
    leaky = Holdout(
        data.train.assign(leak=data.y_train), data.y_train, data.test.assign(leak=data.y), data.y,
        data.ids, data.champion,
    )  # fmt: skip
    scores = scored(leaky, boosted())
    bites(leaky, "leakage", scores, wide={"leakage": 1})


def test_one_slice_ruined(data, honest):
    old = (data.test.AGE >= OLD).to_numpy()
    scores = honest.copy()
    scores[old] = np.random.default_rng(0).permutation(scores[old])
    # the whole hardly notices
    assert old.mean() < 0.05
    bites(
        data,
        "slices",
        scores,
        gates={"champion": {"roc_auc": 0.05}},
        wide={"slices": {"margin": 1}},
    )


def test_one_slice_below_its_floor(data, honest):
    man = (data.test.SEX == 1).to_numpy()
    scores = honest.copy()
    scores[man] = np.random.default_rng(0).permutation(scores[man])
    bites(
        data,
        "slices",
        scores,
        champion=False,
        gates={"slices": {"min": 0.6}, "fairness": {"true_positive_rate_gap": 1}},
        wide={"slices": {"min": 0}},
    )


def test_miscalibrated_scores(data):
    # a usual mistake: balanced weights leave the ranking alone and ruin the probabilities
    scores = scored(data, boosted(class_weight="balanced"))
    bites(data, "calibration", scores, wide={"calibration": 1})


def test_unfair_by_group(data):
    # learnt from labels that were forged against one group
    forged = data.y_train.copy()
    against = (data.train.SEX == 1).to_numpy() & (
        np.random.default_rng(0).random(len(forged)) < 0.4
    )
    forged[against] = 1
    bites(
        data,
        "fairness",
        scored(data, boosted(), forged),
        champion=False,
        gates={"calibration": 1},
        wide={"fairness": {"selection_rate_gap": 1, "true_positive_rate_gap": 1}},
    )


def test_ten_times_slower_than_the_champion(data, honest):
    slow = Measurements(
        row_microseconds=300,
        batch_microseconds=20,
        model_bytes=300_000,
        champion_row_microseconds=30,
    )
    bites(data, "latency", honest, measurements=slow, wide={"latency": {"max_ratio": 1e9}})


def test_slower_than_anyone_waits(data, honest):
    slow = Measurements(row_microseconds=80_000, batch_microseconds=80_000, model_bytes=300_000)
    bites(data, "latency", honest, measurements=slow, wide={"latency": {"max_microseconds": 1e9}})


def test_too_big(data):
    grown = ExtraTreesClassifier(30, min_samples_leaf=2, random_state=1, n_jobs=1)
    scores = scored(data, grown)
    size = len(pickle.dumps(grown))
    fat = Measurements(row_microseconds=30, batch_microseconds=2, model_bytes=size)
    assert size > 2_000_000
    bites(
        data,
        "size",
        scores,
        champion=False,
        measurements=fat,
        gates={"size_megabytes": 2},
        wide={"size_megabytes": 1e6},
    )


def test_a_dataset_that_breaks_its_schema(data, honest):
    found = verdict(data, honest, failures=3)
    assert found.verdict == "REJECT"
    assert failing(found) == {"data"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_no_numbers_never_reach_a_gate(data, honest, bad):
    scores = honest.copy()
    scores[5] = bad
    with pytest.raises(RejectedError, match=r"1 of \d+ rows"):
        verdict(data, scores)


def test_a_hundred_rows_are_too_few_to_say(data, honest):
    few = slice(0, 100)
    small = Holdout(
        data.train, data.y_train, data.test[few], data.y[few], data.ids[few], data.champion[few]
    )
    found = verdict(small, honest[few])
    assert found.verdict == "HOLD", found.summary
    unsure = [r for r in found.results if r.status == "unsure"]
    assert any(r.gate == "champion" and r.rows_needed > 100 for r in unsure)
