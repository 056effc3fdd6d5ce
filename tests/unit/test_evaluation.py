"""One evaluation and one comparison, as the report and the gates read them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LinearRegression, LogisticRegression

from trilho import config
from trilho.bundle import canonical
from trilho.config import SliceBy
from trilho.errors import RejectedError, UsageError
from trilho.evaluation import compare, data_change, evaluate
from trilho.evaluation.drift import population_stability
from trilho.evaluation.importance import single_feature
from trilho.evaluation.results import METRICS, Comparison, Evaluation
from trilho.evaluation.slices import split

ROWS = 1500
SETTINGS = config.Evaluation(
    resamples=200,
    slices=["city", SliceBy(column="age", bins=[30, 50])],
    fairness=["sex"],
)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.integers(18, 80, ROWS).astype(float)
    age[::50] = np.nan
    return pd.DataFrame(
        {
            "signal": rng.normal(size=ROWS),
            "noise": rng.normal(size=ROWS),
            "age": age,
            "city": rng.choice(["Faro", "Lisboa", "Porto"], ROWS),
            "sex": rng.choice(["f", "m"], ROWS),
        }
    )


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.array([f"row-{i}" for i in range(ROWS)])


@dataclass
class Case:
    task: str
    y: np.ndarray
    scores: np.ndarray
    model: object
    classes: list | None = None

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        x = frame[["signal", "noise"]]
        if self.task == "regression":
            return self.model.predict(x)
        found = self.model.predict_proba(x)
        return found[:, 1] if self.task == "binary" else found


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression"])
def case(request, frame) -> Case:
    return make(request.param, frame)


@pytest.fixture(scope="module")
def binary(frame) -> Case:
    return make("binary", frame)


def make(task: str, frame: pd.DataFrame) -> Case:
    rng = np.random.default_rng(1)
    latent = frame.signal.to_numpy() + rng.normal(0, 0.8, len(frame))
    y = {
        "binary": (latent > 0.8).astype(int),
        "multiclass": np.digitize(latent, [-0.5, 0.7]),
        "regression": latent,
    }[task]
    model = LinearRegression() if task == "regression" else LogisticRegression()
    model.fit(frame[["signal", "noise"]], y)
    made = Case(task, y, np.zeros(0), model, None if task == "regression" else sorted(set(y)))
    made.scores = made.predict(frame)
    return made


def run(case: Case, frame: pd.DataFrame, ids=None, **more) -> Evaluation:
    arguments = {
        "task": case.task,
        "y": case.y,
        "scores": case.scores,
        "frame": frame,
        "ids": ids,
        "classes": case.classes,
        "predict": case.predict,
    }
    return evaluate(SETTINGS, **(arguments | more))


def test_an_evaluation_is_complete_and_keeps_its_promises(case, frame, ids):
    found = run(case, frame, ids)
    assert set(found.metrics) == set(METRICS[case.task])
    assert found.primary in found.metrics
    for estimate in found.metrics.values():
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low < estimate.high
    assert found.rows == ROWS
    assert sum(b.rows for b in found.calibration) == ROWS
    assert sum(found.score_histogram) == ROWS
    assert len(found.score_histogram) == 20
    assert [s.column for s in found.slices] == ["city"] * 3 + ["age"] * 4
    assert [s.label for s in found.slices][3:] == ["<30", "30 to 50", ">=50", "missing"]
    for column in ("city", "age"):
        assert sum(s.rows for s in found.slices if s.column == column) == ROWS
    assert found.importance[0].feature == "signal"
    assert found.importance[0].mean > 5 * abs(found.importance[-1].mean)
    assert set(found.single_feature) == set(frame.columns)
    assert max(found.single_feature, key=found.single_feature.get) == "signal"
    if case.task == "regression":
        assert found.confusion is None
    else:
        assert np.sum(found.confusion) == ROWS
        assert np.trace(found.confusion) / ROWS == pytest.approx(found.metrics["accuracy"].value)
    if case.task == "binary":
        assert found.threshold == 0.5
        assert [g.label for g in found.fairness[0].groups] == ["f", "m"]
    else:
        assert found.threshold is None
        assert found.fairness == found.thresholds == []
    # the record survives its own JSON
    assert msgspec.json.decode(canonical(found), type=Evaluation) == found


@pytest.mark.parametrize("named", [True, False])
def test_the_order_of_rows_changes_nothing(case, frame, ids, named):
    shuffled = np.random.default_rng(9).permutation(ROWS)
    other = Case(case.task, case.y[shuffled], case.scores[shuffled], case.model, case.classes)
    one = run(case, frame, ids if named else None)
    two = run(other, frame.iloc[shuffled], ids[shuffled] if named else None)
    assert canonical(one) == canonical(two)


def test_curves_and_tables_are_scikit_learn_s(binary, frame):
    y, scores = binary.y, binary.scores
    found = run(binary, frame, threshold=0.37)
    for curve in (found.roc, found.precision_recall):
        assert len(curve.x) == len(curve.y) <= 200
    area = sk.auc(found.roc.x, found.roc.y)
    assert area == pytest.approx(found.metrics["roc_auc"].value, abs=2e-3)
    assert (found.roc.x[0], found.roc.y[0]) == (0, 0)
    assert (found.roc.x[-1], found.roc.y[-1]) == (1, 1)
    assert [round(t.threshold, 2) for t in found.thresholds] == sorted(
        [0.1, 0.2, 0.3, 0.37, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    )
    for row in found.thresholds:
        decided = scores >= row.threshold
        assert row.selected == pytest.approx(decided.mean())
        assert row.recall == pytest.approx(sk.recall_score(y, decided))
        assert row.precision == pytest.approx(sk.precision_score(y, decided))
        assert row.f1 == pytest.approx(sk.f1_score(y, decided))
        assert row.accuracy == pytest.approx(sk.accuracy_score(y, decided))
    assert found.confusion == sk.confusion_matrix(y, scores >= 0.37).tolist()
    predicted = sum(b.rows * b.mean_predicted for b in found.calibration) / ROWS
    assert predicted == pytest.approx(scores.mean())


def test_slices_hold_the_metrics_of_their_rows(binary, frame):
    found = run(binary, frame)
    faro = next(s for s in found.slices if s.label == "Faro")
    own = (frame.city == "Faro").to_numpy()
    assert faro.rows == own.sum()
    assert faro.positives == binary.y[own].sum()
    theirs = sk.roc_auc_score(binary.y[own], binary.scores[own])
    assert faro.metrics["roc_auc"].value == pytest.approx(theirs, abs=1e-12)
    assert faro.metrics["roc_auc"].low < theirs < faro.metrics["roc_auc"].high


def test_fairness_compares_rates_of_groups_with_enough_rows(binary, frame):
    group = frame.sex.where(np.arange(ROWS) >= 40, "few")
    decided = binary.scores >= 0.5
    found = run(binary, frame.assign(sex=group)).fairness[0]
    assert [g.label for g in found.groups] == ["f", "few", "m"]
    selection, recall = [], []
    for shown in found.groups:
        own = (group == shown.label).to_numpy()
        assert shown.selection_rate == pytest.approx(decided[own].mean())
        assert shown.true_positive_rate == pytest.approx(decided[own & (binary.y == 1)].mean())
        if shown.label != "few":
            selection.append(shown.selection_rate)
            recall.append(shown.true_positive_rate)
    assert found.selection_rate_gap.value == pytest.approx(np.ptp(selection))
    assert found.true_positive_rate_gap.value == pytest.approx(np.ptp(recall))
    assert found.selection_rate_gap.low <= found.selection_rate_gap.value
    assert found.selection_rate_gap.high < 0.2


def test_columns_split_into_few_named_groups():
    frame = pd.DataFrame(
        {
            "text": [f"v{i % 40}" for i in range(400)],
            "number": [*range(399), None],
            "code": [1.0, 2.0, None, 2.0] * 100,
            "flag": [True, False] * 200,
            "day": pd.date_range("2020-01-01", periods=400),
        }
    )
    text = split(frame, "text")
    assert len(text.labels) == 30
    assert text.labels[-1] == "other"
    assert np.bincount(text.codes)[-1] == 110
    assert split(frame, "number").labels == [
        "<99.5",
        "99.5 to 199",
        "199 to 298.5",
        ">=298.5",
        "missing",
    ]
    assert split(frame, "code").labels == ["1", "2", "missing"]
    assert split(frame, "flag").labels == ["False", "True"]
    assert len(split(frame, "day").labels) == 4
    halves = split(frame, SliceBy(column="code", bins=[2]))
    assert halves.labels == ["<2", ">=2", "missing"]
    assert np.bincount(halves.codes).tolist() == [100, 200, 100]
    rows = halves.rows()
    assert sorted(np.concatenate(rows)) == list(range(400))
    assert set(frame.code.iloc[rows[1]]) == {2.0}


def test_a_slice_that_cannot_be_is_a_usage_error(frame):
    with pytest.raises(UsageError, match=r"evaluation.slices: .*'cty'; did you mean 'city'\?"):
        split(frame, "cty")
    with pytest.raises(UsageError, match="'city' is no number"):
        split(frame, SliceBy(column="city", bins=[1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.5, -0.1])
def test_scores_that_are_no_probabilities_are_rejected(binary, frame, ids, bad):
    scores = binary.scores.copy()
    scores[[7, 9]] = bad
    with pytest.raises(RejectedError, match=r"2 of 1500 rows, the first is row row-7"):
        run(binary, frame, ids, scores=scores)


def test_scores_of_the_wrong_shape_are_rejected(binary, frame):
    with pytest.raises(RejectedError, match=r"shape \(1500, 2\)"):
        run(binary, frame, scores=np.column_stack((1 - binary.scores, binary.scores)))
    with pytest.raises(RejectedError, match=r"shape \(10,\)"):
        run(binary, frame, scores=binary.scores[:10])


def test_class_probabilities_must_add_up(frame):
    case = make("multiclass", frame)
    with pytest.raises(RejectedError, match="no probabilities"):
        run(case, frame, scores=case.scores / 2)


def test_one_class_on_the_hold_out_leaves_ranks_undefined_and_the_rest_whole(binary, frame):
    found = run(binary, frame, y=np.zeros(ROWS, int))
    assert found.metrics["roc_auc"].value is None
    assert found.metrics["recall"].value is None
    assert found.metrics["accuracy"].value is not None
    assert found.roc is None
    assert found.single_feature == {}


# --- single columns -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_leak_in_any_disguise_shows_and_a_name_does_not(task):
    rng = np.random.default_rng(4)
    y = {
        "binary": rng.integers(0, 2, 600),
        "multiclass": rng.integers(0, 4, 600),
        "regression": rng.integers(0, 10, 600).astype(float),
    }[task]
    code = rng.permutation(10)[y.astype(int)]
    frame = pd.DataFrame(
        {
            "copy": y,
            "reversed": -y * 3.5,
            "code": code,
            "text": [f"c{c}" for c in code],
            "category": pd.Categorical([f"c{c}" for c in code]),
            "name": [f"id{i}" for i in range(600)],
            "noise": rng.normal(size=600),
            "noisy text": rng.choice(["a", "b", "c"], 600),
        }
    )
    if task == "binary":
        frame["missing"] = np.where(y == 1, np.nan, rng.normal(size=600))
    found = single_feature(frame, list(frame.columns), task, y, 4)
    for column in set(frame.columns) - {"name", "noise", "noisy text"}:
        if task == "multiclass" and column == "reversed":
            continue
        assert found[column] > 0.98, column
    base = 0.0 if task == "regression" else 0.5
    for column in ("name", "noise", "noisy text"):
        assert abs(found[column] - base) < 0.12, column


# --- candidate beside champion ------------------------------------------------------------------


def beside(case: Case, champion: np.ndarray, frame: pd.DataFrame, ids=None, **more) -> Comparison:
    return compare(
        SETTINGS,
        task=case.task,
        y=case.y,
        scores=case.scores,
        champion_scores=champion,
        frame=frame,
        ids=ids,
        champion_digest="sha256:0",
        champion_version=3,
        **more,
    )


def test_a_model_beside_itself_differs_in_nothing(case, frame, ids):
    found = beside(case, case.scores, frame, ids)
    every = [*found.metrics.values()]
    every += [d for s in found.slices for d in s.metrics.values()]
    every += [d for gaps in found.fairness.values() for d in gaps.values()]
    assert len(every) > 10
    for d in every:
        assert d.difference in (0, None)
        if d.low is not None:
            assert d.low == d.high == 0
    if case.task != "regression":
        assert (found.flips.fixed, found.flips.broken) == (0, 0)
    assert msgspec.json.decode(canonical(found), type=Comparison) == found


def test_a_comparison_agrees_with_both_evaluations(case, frame, ids):
    rng = np.random.default_rng(3)
    champion = case.scores[rng.permutation(ROWS)]
    found = beside(case, champion, frame, ids, caveats=["another split"])
    ours, theirs = run(case, frame, ids), run(case, frame, ids, scores=champion, predict=None)
    for name, d in found.metrics.items():
        assert d.candidate == ours.metrics[name].value
        assert d.champion == pytest.approx(theirs.metrics[name].value, abs=1e-12)
        assert d.low <= d.difference <= d.high
    primary = found.metrics[ours.primary]
    assert primary.low > 0
    assert (found.rows, found.champion_version, found.caveats) == (ROWS, 3, ["another split"])
    assert [(s.column, s.label) for s in found.slices] == [(s.column, s.label) for s in ours.slices]


def test_flips_name_the_rows_that_turned(binary, frame, ids):
    champion = binary.scores.copy()
    champion[:3] = np.where(binary.y[:3] == 1, 0.0, 1.0)  # the champion had these wrong
    turned = np.flatnonzero((binary.scores >= 0.5) != binary.y)[-30:]
    champion[turned] = binary.y[turned]  # and these right
    found = beside(binary, champion, frame, ids).flips
    right = (binary.scores >= 0.5) == binary.y
    was_right = (champion >= 0.5) == binary.y
    assert found.fixed == (right & ~was_right).sum()
    assert found.broken == (~right & was_right).sum() >= 29
    assert set(found.fixed_ids) == set(ids[right & ~was_right])
    assert len(found.broken_ids) == 10
    assert set(found.broken_ids) <= set(ids[~right & was_right])


def test_each_model_decides_by_its_own_threshold(binary, frame):
    found = beside(binary, binary.scores, frame, threshold=0.2, champion_threshold=0.8)
    assert found.metrics["recall"].difference > 0
    assert found.metrics["roc_auc"].difference == 0
    assert found.flips.fixed > 0


def test_a_champion_that_cannot_score_is_no_comparison(binary, frame, ids):
    found = beside(binary, np.full(ROWS, np.nan), frame, ids)
    assert found.impossible.startswith("The champion gave missing or infinite scores")
    assert found.metrics == {}


# --- data drift ---------------------------------------------------------------------------------


@dataclass
class Sketch:
    kind: str = "number"
    missing: float = 0.0
    quantiles: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)


@dataclass
class Reference:
    rows: int
    columns: dict[str, Sketch]


def sketched(values: np.ndarray, missing: float = 0.0) -> Sketch:
    steps = np.linspace(0, 1, 200)
    found = np.quantile(values, steps, method="inverted_cdf")
    return Sketch(missing=missing, quantiles=found.tolist())


def test_data_change_tells_what_came_went_and_moved():
    rng = np.random.default_rng(0)
    before = Reference(
        5000,
        {
            "same": sketched(rng.normal(size=5000)),
            "moved": sketched(rng.normal(size=5000)),
            "zeros": sketched(np.where(rng.random(5000) < 0.8, 0, rng.random(5000))),
            "constant": sketched(np.ones(5000)),
            "now missing": sketched(rng.normal(size=5000)),
            "text": Sketch("string", shares={"a": 0.7, "b": 0.3}),
            "new text": Sketch("string", shares={"a": 0.7, "b": 0.3}),
            "retyped": Sketch("string", shares={"a": 1.0}),
            "gone": sketched(rng.normal(size=5000)),
        },
    )
    now = Reference(
        6000,
        {
            "same": sketched(rng.normal(size=6000)),
            "moved": sketched(rng.normal(0.6, size=6000)),
            "zeros": sketched(np.where(rng.random(6000) < 0.8, 0, rng.random(6000))),
            "constant": sketched(np.zeros(6000)),
            "now missing": sketched(rng.normal(size=6000), missing=0.4),
            "text": Sketch("string", shares={"b": 0.31, "a": 0.69}),
            "new text": Sketch("string", shares={"a": 0.5, "b": 0.2, "c": 0.3}),
            "retyped": sketched(rng.normal(size=6000)),
            "fresh": sketched(rng.normal(size=6000)),
        },
    )
    found = data_change(before, now)
    assert (found.rows_before, found.rows_now) == (5000, 6000)
    assert {c.column: c.change for c in found.columns} == {
        "same": "same",
        "moved": "drifted",
        "zeros": "same",
        "constant": "drifted",
        "now missing": "drifted",
        "text": "same",
        "new text": "drifted",
        "retyped": "drifted",
        "gone": "removed",
        "fresh": "added",
    }
    itself = data_change(before, before)
    assert all(c.psi == pytest.approx(0) for c in itself.columns)


def test_few_rows_do_not_drift_by_chance():
    rng = np.random.default_rng(1)
    alarms = large = 0
    for _ in range(100):
        sketches = [sketched(rng.normal(size=80)) for _ in range(2)]
        one, two = (Reference(80, {"x": s}) for s in sketches)
        change = data_change(one, two).columns[0]
        large += change.psi >= 0.1
        alarms += change.change == "drifted"
    assert large > 50  # the fixed bound alone would misfire more often than not
    assert alarms <= 8


def test_population_stability_is_its_definition():
    a, b = np.array([0.5, 0.5]), np.array([0.6, 0.4])
    exact = 0.1 * np.log(0.6 / 0.5) - 0.1 * np.log(0.4 / 0.5)
    assert population_stability(a, b, 10**7, 10**7) == pytest.approx(exact, abs=1e-6)


def test_reading_results_and_judging_needs_no_numpy():
    code = (
        "import sys, trilho.evaluation.results, trilho.gates;"
        "print(sorted({'numpy', 'pandas', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
