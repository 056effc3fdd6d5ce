"""Random pipelines on random data: the compiled form answers as scikit-learn does, or refuses.

A larger run: TRILHO_TEST_EXAMPLES=5000 pytest tests/unit/test_compiled_random.py
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from compiled_models import Agreement, agree, wild
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from trilho import compiled
from trilho.bundle import Column, Signature
from trilho.training import proof
from trilho.training.columns import from_frame
from trilho.training.compile import compile_model
from trilho.training.refused import CompileRefused

EXAMPLES = int(os.environ.get("TRILHO_TEST_EXAMPLES", "60"))
ALPHABET = ["a", "b", "C", "ß", "", " ", "a\x00", "🏳️‍🌈", "é", "e\u0301", "1", "1.0", "nan", "None"]

# ── data ──────────────────────────────────────────────────────────────────────────────────────────


def column(kind: str, rows: int, rng: np.random.Generator) -> Any:
    """One column of a kind, some with gaps."""
    if kind == "text":
        texts = rng.choice(
            np.array(ALPHABET, object), rows, p=rng.dirichlet(np.ones(len(ALPHABET)))
        )
        return pd.Series(
            np.where(rng.random(rows) < 0.1 * rng.integers(0, 3), None, texts), dtype="str"
        )
    if kind == "date":
        days = pd.to_timedelta(rng.integers(-9999, 9999, rows), unit="D")
        return pd.Series(pd.Timestamp("2000-01-01") + days).astype("datetime64[us]")
    if kind == "boolean":
        return pd.Series(rng.random(rows) < rng.random())
    if kind == "integer":
        return pd.Series(rng.integers(-3, 10 ** rng.integers(1, 7), rows))
    shape = rng.integers(0, 6)
    values = {
        0: lambda: rng.normal(size=rows) * 10.0 ** rng.integers(-6, 7),
        1: lambda: rng.lognormal(0, 3, rows),
        2: lambda: rng.integers(-2, 3, rows) / 10,  # few values, often repeated
        3: lambda: np.full(rows, rng.normal()),
        4: lambda: rng.choice([0.0, -0.0, 1e-300, 5e-324, 1e12, -1e12, 0.1, 0.1 + 1e-16], rows),
        5: lambda: np.round(rng.normal(size=rows), 1),
    }[int(shape)]()
    return pd.Series(np.where(rng.random(rows) < 0.1 * rng.integers(0, 3), np.nan, values))


def table(kinds: dict[str, str], rows: int, seed: int, gaps: bool = True) -> pd.DataFrame:
    return pd.DataFrame(
        {
            n: column(k, rows, np.random.default_rng([seed, i]))
            for i, (n, k) in enumerate(kinds.items())
        }
    )


def target(frame: pd.DataFrame, task: str, labels: list[Any], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    value = rng.normal(size=len(frame))
    for name in frame:
        if frame[name].dtype.kind in "fib":
            value += frame[name].rank().fillna(0).to_numpy(float) / len(frame)
    if task == "regression":
        return value * 10.0 ** rng.integers(-3, 4)
    edges = np.quantile(value, np.arange(1, len(labels)) / len(labels))
    return np.array(labels)[np.digitize(value, edges)]


# ── pipelines ─────────────────────────────────────────────────────────────────────────────────────


def log_of_size(x: Any) -> Any:
    return np.log1p(np.abs(x))


@st.composite
def number_steps(draw: st.DrawFn) -> list[Any]:
    filled = SimpleImputer(
        strategy=draw(st.sampled_from(["mean", "median", "most_frequent", "constant"])),
        add_indicator=draw(st.booleans()),
        keep_empty_features=draw(st.booleans()),
    )
    step = st.sampled_from(
        [
            *(StandardScaler(), RobustScaler(), MaxAbsScaler(), MinMaxScaler(clip=True)),
            *(Normalizer(), Binarizer(threshold=0.1), PowerTransformer(), "passthrough"),
            *(QuantileTransformer(n_quantiles=9), VarianceThreshold(), SelectKBest(k=1)),
            QuantileTransformer(n_quantiles=9, output_distribution="normal"),
            KBinsDiscretizer(3, encode="ordinal", quantile_method="averaged_inverted_cdf"),
            KBinsDiscretizer(3, strategy="uniform"),
            *(PolynomialFeatures(2), PolynomialFeatures(3, interaction_only=True)),
            *(SplineTransformer(n_knots=3), SplineTransformer(degree=1, extrapolation="periodic")),
            SplineTransformer(extrapolation="linear", handle_missing="zeros"),
            *(PCA(1), FunctionTransformer(log_of_size), FunctionTransformer(np.cbrt)),
            FunctionTransformer(np.sign, validate=True),
            FeatureUnion([("a", StandardScaler()), ("b", MinMaxScaler())]),
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=4),
        ]
    )
    steps = draw(st.lists(step, max_size=3))
    return steps if draw(st.integers(0, 3)) == 0 else [filled, *steps]


@st.composite
def text_steps(draw: st.DrawFn) -> list[Any]:
    unknown = draw(st.sampled_from(["ignore", "infrequent_if_exist", "error", "warn"]))
    rare: dict[str, Any] = draw(st.sampled_from([{}, {"min_frequency": 5}, {"max_categories": 3}]))
    own = {"handle_unknown": "use_encoded_value", "unknown_value": -1}
    last = st.sampled_from(
        [
            OneHotEncoder(
                handle_unknown=unknown,
                drop=draw(st.sampled_from([None, "first", "if_binary"])),
                sparse_output=draw(st.booleans()),
                **rare,
            ),
            OrdinalEncoder(
                **own, encoded_missing_value=draw(st.sampled_from([-2, np.nan])), **rare
            ),
            TargetEncoder(random_state=0),
            MissingIndicator(features="all"),
        ]
    )
    before = st.sampled_from(
        [
            *([], [], [SimpleImputer(strategy="most_frequent")]),
            [SimpleImputer(strategy="constant", fill_value="a")],
        ]
    )
    return [*draw(before), draw(last)]


@st.composite
def models(draw: st.DrawFn, task: str, depth: int = 0) -> Any:
    regression = task == "regression"
    small: dict[str, Any] = {"n_estimators": 5, "random_state": 0}
    plain = [
        (LogisticRegression, Ridge, {}),
        (HistGradientBoostingClassifier, HistGradientBoostingRegressor, {"max_iter": 5}),
        (RandomForestClassifier, RandomForestRegressor, small),
        (ExtraTreesClassifier, ExtraTreesRegressor, small),
        (GradientBoostingClassifier, GradientBoostingRegressor, small),
        (DecisionTreeClassifier, DecisionTreeRegressor, {"random_state": 0}),
    ]
    if depth == 0 and draw(st.integers(0, 4)) == 0:
        parts = [("a", draw(models(task, 1))), ("b", draw(models(task, 1)))]
        if draw(st.booleans()):
            return VotingRegressor(parts) if regression else VotingClassifier(parts, voting="soft")
        last = draw(models(task, 1))
        passed = draw(st.booleans())
        stack = StackingRegressor if regression else StackingClassifier
        return stack(parts, last, cv=2, passthrough=passed)
    classifier, regressor, params = draw(st.sampled_from(plain))
    model = (regressor if regression else classifier)(**params)
    if regression or draw(st.integers(0, 3)):
        return model
    method = draw(st.sampled_from(["sigmoid", "isotonic", "temperature"]))
    if draw(st.booleans()):
        model = SGDClassifier(random_state=0)
    return CalibratedClassifierCV(model, method=method, cv=2, ensemble=draw(st.booleans()))


class Trial:
    """A model with its data; hypothesis prints it when something is wrong."""

    def __init__(self, draw: st.DrawFn) -> None:
        kinds = st.sampled_from(["number", "number", "integer", "boolean", "text", "date"])
        self.kinds = {
            f"c{i}": k for i, k in enumerate(draw(st.lists(kinds, min_size=1, max_size=5)))
        }
        self.kinds["last"] = draw(st.sampled_from(["number", "text"]))
        self.rows = draw(st.sampled_from([40, 90]))
        self.seed = draw(st.integers(0, 2**32 - 1))
        self.task = draw(st.sampled_from(["binary", "multiclass", "regression"]))
        labels = st.sampled_from([[0, 1, 2], ["no", "yes", "ß"], [False, True], [-1.5, 0.0, 7.0]])
        self.labels = draw(labels)[: 2 if self.task == "binary" else 3]
        if len(self.labels) < 2 + (self.task == "multiclass"):
            self.labels = ["x", "y", "z"]
        self.model = self._pipeline(draw)

    def _pipeline(self, draw: st.DrawFn) -> Any:
        number = [n for n, k in self.kinds.items() if k in ("number", "integer", "boolean")]
        text = [n for n, k in self.kinds.items() if k == "text"]
        parts: list[Any] = []
        if number:
            columns: Any = number
            if draw(st.integers(0, 4)) == 0:
                columns = make_column_selector(dtype_include=["number", "bool"])
            elif draw(st.integers(0, 4)) == 0:
                columns = [list(self.kinds).index(n) for n in number]
            parts.append(("n", make_pipeline(*draw(number_steps()), "passthrough"), columns))
        if text:
            parts.append(("t", make_pipeline(*draw(text_steps())), text))
        table = ColumnTransformer(
            parts,
            remainder=draw(st.sampled_from(["drop", "drop", "drop", "passthrough"])),
            sparse_threshold=draw(st.sampled_from([0.0, 0.3, 1.0])),
        )
        steps: list[Any] = [table]
        between = [StandardScaler(with_mean=False), VarianceThreshold(), SimpleImputer(), PCA(1)]
        steps += draw(st.lists(st.sampled_from(between), max_size=1))
        pipeline = make_pipeline(*steps, draw(models(self.task)))
        if draw(st.integers(0, 5)) == 0:
            pipeline[:-1].set_output(transform="pandas")
        return pipeline

    def signature(self) -> Signature:
        binary = self.task == "binary"
        classes = None if self.task == "regression" else sorted(self.labels)
        return Signature(
            columns=[
                Column(name=n, kind="string" if k == "text" else k) for n, k in self.kinds.items()
            ],
            target="y",
            task=self.task,
            classes=classes,
            positive=classes[1] if binary and classes else None,
            threshold=0.5 if binary else None,
        )

    def __repr__(self) -> str:
        data = f"{self.kinds}, rows={self.rows}, seed={self.seed}, {self.task} {self.labels}"
        return f"Trial({data}, {self.model})"


trials = st.composite(lambda draw: Trial(draw))()


def outcome(trial: Trial, folder: Path) -> Agreement | str:
    """Fit, compile, prove; on other and wild rows nothing may differ."""
    frame = table(trial.kinds, trial.rows, trial.seed)
    y = target(frame, trial.task, trial.labels, trial.seed)
    signature = trial.signature()
    try:
        model = trial.model.fit(frame, y)
    except Exception:
        return "does not fit"
    try:
        compile_model(model, signature, folder)
        form = compiled.load(folder)
        held = table(trial.kinds, 30, trial.seed + 1)
        proof.prove(model, form, held, from_frame(held, signature), signature, signature.threshold)
    except CompileRefused as refused:
        return f"refused: {refused}"
    other = table(trial.kinds, 25, trial.seed + 2)
    rows = pd.concat(
        [wild(frame.iloc[:20], share=0), wild(other, share=0), wild(other, trial.seed % 1000)],
        ignore_index=True,
    )
    return agree(model, form, rows, signature)


SEEN: Counter[str] = Counter()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="TRILHO_TEST_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
@given(trial=trials)
def test_random_pipelines_are_equal_or_refused(trial: Trial) -> None:
    note(repr(trial))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        found = outcome(trial, Path(folder))
    kind = found if isinstance(found, str) else "equal"
    SEEN[kind.split(":")[0]] += 1
    SEEN[kind] += 1
    event(kind)


@pytest.mark.skipif(EXAMPLES < 50, reason="too few examples to tell")
def test_most_random_pipelines_are_compiled() -> None:
    """Else the test above would prove nothing."""
    assert SEEN, "run the whole file"
    assert SEEN["equal"] > SEEN["refused"]
