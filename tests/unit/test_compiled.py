"""The compiled form: proven equal, and the same for one row, many rows and many threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from compiled_models import KINDS, check, prove, signature_of, table, target
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from trilho import compiled
from trilho.errors import DataError
from trilho.training.columns import from_frame, take
from trilho.training.compile import CompileRefused, compile_model
from trilho.training.preprocessing import preprocess
from trilho.training.proof import prove as prove_forms

FEW = {"n_estimators": 10, "random_state": 0}
MODELS: dict[str, tuple[Any, Any]] = {
    "linear": (LogisticRegression(max_iter=300), Ridge()),
    "hist": (HistGradientBoostingClassifier(max_iter=9), HistGradientBoostingRegressor(max_iter=9)),
    "forest": (RandomForestClassifier(**FEW), RandomForestRegressor(**FEW)),
    "extra trees": (ExtraTreesClassifier(**FEW), ExtraTreesRegressor(**FEW)),
    "boosting": (GradientBoostingClassifier(**FEW), GradientBoostingRegressor(**FEW)),
    "tree": (DecisionTreeClassifier(max_depth=6), DecisionTreeRegressor(max_depth=6)),
}


@pytest.mark.parametrize("missing", [0.1, 0.0])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("name", MODELS)
def test_what_stands_around_a_bare_model_is_compiled(
    name: str, task: str, missing: float, tmp_path: Path
) -> None:
    model = preprocess(MODELS[name][task == "regression"], KINDS)
    largest, _ = prove(model, table(200, missing=missing), task, tmp_path)
    assert largest <= 1e-11


@pytest.mark.parametrize("name", ["hist", "forest"])
def test_the_score_is_of_the_positive_class(name: str, tmp_path: Path) -> None:
    frame = table()
    model = preprocess(MODELS[name][0], KINDS)
    _, first = prove(model, frame, "binary", tmp_path / "1", positive=1)
    _, zeroth = prove(model, frame, "binary", tmp_path / "0", positive=0)
    columns = from_frame(frame, signature_of(frame, "binary"))
    assert np.allclose(first.predict(columns) + zeroth.predict(columns), 1)
    assert np.corrcoef(first.predict(columns), target(frame, "binary"))[0, 1] > 0.5


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pd.DataFrame, Path]:
    folder, frame = tmp_path_factory.mktemp("proven"), table()
    model = preprocess(LogisticRegression(max_iter=300), KINDS)
    prove(model, frame, "binary", folder)
    return model, frame, folder


class Bent:
    """A form that is wrong somewhere."""

    def __init__(self, form: compiled.CompiledModel, bend: Callable[[Any, Any], Any]) -> None:
        self.form, self.bend = form, bend

    def predict(self, columns: Any) -> Any:
        return self.bend(columns, self.form.predict(columns).copy())


def far(columns: Any, scores: Any) -> Any:
    scores[columns["large"] > 1e200] += 1e-3
    return scores


def unseen(columns: Any, scores: Any) -> Any:
    scores[[v == "\x1funseen\x1f" for v in columns["colour"]]] += 1e-8
    return scores


def alone(columns: Any, scores: Any) -> Any:
    return scores + 1e-11 if len(scores) == 1 else scores


def one_alone(columns: Any, scores: Any) -> Any:
    own = table(200, seed=99)["large"].iloc[17]  # of the hold-out, no edge row has it
    return scores + 1e-11 if len(scores) == 1 and columns["large"][0] == own else scores


def somewhere(columns: Any, scores: Any) -> Any:
    scores[17:18] += 1e-8
    return scores


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        (somewhere, "hold-out rows"),
        (far, "edge rows"),
        (unseen, "edge rows"),
        (alone, "alone"),
        (one_alone, "alone"),
        (lambda c, s: np.where(s > 2, s, np.nan), "inf on hold-out"),
    ],
)
def test_the_proof_finds_a_form_that_differs_anywhere(proven: Any, bend: Any, reason: str) -> None:
    model, frame, folder = proven
    form: Any = Bent(compiled.load(folder), bend)
    with pytest.raises(CompileRefused, match=reason):
        check(model, form, frame, signature_of(frame, "binary"))


def test_the_proof_finds_a_flipped_decision(proven: Any) -> None:
    model, frame, folder = proven
    form = compiled.load(folder)
    signature = signature_of(frame, "binary")
    columns = from_frame(frame, signature)
    scores = form.predict(columns)

    def bend(_: Any, given: Any) -> Any:
        return np.where(given == scores[5], given - 1e-12, given)

    bent: Any = Bent(form, bend)
    at = float(model.predict_proba(frame)[5, 1])
    with pytest.raises(CompileRefused, match="decides 1 hold-out rows otherwise"):
        prove_forms(model, bent, frame, columns, signature, at)


# ── the runtime ───────────────────────────────────────────────────────────────────────────────────


def test_chunks_threads_and_single_rows_agree(proven: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, frame, folder = proven
    form = compiled.load(folder)
    columns = from_frame(frame, signature_of(frame, "binary"))
    whole = form.predict(columns)
    monkeypatch.setattr(compiled, "CHUNK", 7)
    assert np.allclose(form.predict(columns), whole, rtol=0, atol=1e-14)
    results: list[Any] = []

    def work() -> None:
        results.extend(
            np.allclose(form.predict(take(columns, slice(i, i + 1))), whole[i], rtol=0, atol=1e-14)
            for i in range(100)
        )

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 800
    assert all(results)
    assert form.predict(take(columns, slice(0, 0))).shape == (0,)


def test_a_missing_column_and_a_row_it_cannot_take_are_data_errors(tmp_path: Path) -> None:
    frame = table(missing=0)[["small", "colour"]]
    encoder = ColumnTransformer([("t", OneHotEncoder(), ["colour"])], remainder="passthrough")
    model = make_pipeline(encoder, LogisticRegression()).fit(frame, target_of(frame))
    signature = signature_of(frame, "binary")
    compile_model(model, signature, tmp_path)
    form = compiled.load(tmp_path)
    red = np.array(["red"], object)
    assert form.predict({"small": np.array([1.0]), "colour": red}).shape == (1,)
    with pytest.raises(DataError, match="'colour' is missing"):
        form.predict({"small": np.array([1.0])})
    with pytest.raises(DataError, match="missing or too large"):
        form.predict({"small": np.array([np.nan]), "colour": red})
    with pytest.raises(DataError, match="holds a category that was not") as caught:
        form.predict({"small": np.array([1.0]), "colour": np.array(["secret"], object)})
    assert "secret" not in str(caught.value)


def target_of(frame: pd.DataFrame) -> Any:
    return (frame["small"] > 0).astype(int).to_numpy()


def test_loading_imports_neither_the_training_stack_nor_pickle_data(proven: Any) -> None:
    code = f"""
import sys
from pathlib import Path
from trilho import compiled
form = compiled.load(Path({str(proven[2])!r}))
heavy = {{"sklearn", "pandas", "joblib", "pydantic", "trilho.training", "trilho.features"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_model_gives_the_same_bytes(proven: Any, tmp_path: Path) -> None:
    model, frame, folder = proven
    compile_model(model, signature_of(frame, "binary"), tmp_path)
    names = sorted(p.name for p in folder.iterdir())
    assert names == sorted(p.name for p in tmp_path.iterdir())
    assert all((folder / n).read_bytes() == (tmp_path / n).read_bytes() for n in names)
