"""Every rule against scikit-learn: equal on ordinary and on wild rows, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compiled_boosters
import compiled_table
import numpy as np
import pandas as pd
import pytest
from compiled_cases import Case, cases, gaps, numbers, one_hot, raw, scaled
from compiled_models import NUMBERS, agree, check, prove, signature_of, table, target, wild
from compiled_refusals import refusals
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from trilho import compiled
from trilho.bundle import Column, Signature
from trilho.training.columns import from_frame
from trilho.training.compile import CompileRefused, compile_model
from trilho.training.scoring import predict

# what adds up leaves is equal to the last bit, so no decision can differ
EXACT = ("DecisionTree", "ExtraTree", "RandomForest", "HistGradientBoosting", "GradientBoosting")


def ids(found: list[tuple[Case, str]]) -> list[str]:
    return [f"{case.name} {case.setting} {task}".replace("  ", " ") for case, task in found]


EQUAL = [(case, task) for case in cases() for task in case.tasks]
REFUSED = [(case, task) for case in refusals() for task in case.tasks]


@pytest.mark.parametrize(("case", "task"), EQUAL, ids=ids(EQUAL))
def test_equal_to_scikit_learn(case: Case, task: str, tmp_path: Path) -> None:
    found = compiled_table.measure(case, task, tmp_path)
    assert found <= 1e-11
    if case.name.startswith(EXACT) and case.setting != "exponential":
        assert found == 0.0


@pytest.mark.parametrize(("case", "task"), REFUSED, ids=ids(REFUSED))
def test_refused_with_its_reason(case: Case, task: str, tmp_path: Path) -> None:
    with pytest.raises(CompileRefused, match=case.reason):
        compiled_table.measure(case, task, tmp_path)


@pytest.mark.parametrize("package", compiled_boosters.PACKAGES)
def test_boosters_are_equal_or_refused(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package, reason=f"{package} is not for this platform")
    for case in compiled_boosters.cases(package):
        for task in case.tasks:
            if case.reason is None:
                assert compiled_table.measure(case, task, tmp_path) <= 1e-11
            else:
                with pytest.raises(CompileRefused, match=case.reason):
                    compiled_table.measure(case, task, tmp_path)


def test_every_rule_is_tried_and_documented() -> None:
    rules = compiled_table.rules()
    tried = {case.name for case, _ in EQUAL}
    assert rules == tried | {name for name in rules if "." in name}
    expected = compiled_table.expected_rows()
    assert set(compiled_table.documented_rows()) == expected, "python -m tests.unit.compiled_table"


# ── what could be taken for something else ────────────────────────────────────────────────────────


def test_a_subclass_is_not_taken_for_its_parent(tmp_path: Path) -> None:
    class Doubled(StandardScaler):
        def transform(self, X: Any, copy: Any = None) -> Any:
            return 2 * super().transform(X)

    with pytest.raises(CompileRefused, match="Doubled"):
        prove(gaps(Doubled())("binary"), table(), "binary", tmp_path)


def test_a_method_of_its_own_is_not_overlooked(tmp_path: Path) -> None:
    model = raw(HistGradientBoostingClassifier(max_iter=3)).fit(table(), target(table(), "binary"))
    model[-1].predict_proba = lambda x: np.full((len(x), 2), 0.5)
    with pytest.raises(CompileRefused, match="has a predict_proba of its own"):
        compile_model(model, signature_of(table(), "binary"), tmp_path)


def test_a_step_that_is_not_fitted_is_refused(tmp_path: Path) -> None:
    model = gaps(StandardScaler())("binary").fit(table(), target(table(), "binary"))
    model.steps.insert(1, ("late", MinMaxScaler()))
    with pytest.raises(CompileRefused, match="MinMaxScaler is not fitted"):
        compile_model(model, signature_of(table(), "binary"), tmp_path)


def test_a_step_that_was_changed_after_the_fit_is_refused(tmp_path: Path) -> None:
    model = gaps(StandardScaler())("binary").fit(table(), target(table(), "binary"))
    del model[0].named_transformers_["n"][0].mean_
    with pytest.raises(CompileRefused, match="StandardScaler is not as its rule expects"):
        compile_model(model, signature_of(table(), "binary"), tmp_path)


def test_columns_in_another_order_than_in_training_are_refused(tmp_path: Path) -> None:
    frame = table()
    model = gaps(StandardScaler())("binary").fit(frame, target(frame, "binary"))
    turned = signature_of(frame[frame.columns[::-1]], "binary")
    with pytest.raises(CompileRefused, match="other columns"):
        compile_model(model, turned, tmp_path)


@pytest.mark.parametrize("labels", [["no", "yes", "ß"], [False, True], [7, -1, 3], [1.0, 2.0]])
@pytest.mark.parametrize("model", [scaled(LogisticRegression()), raw(RandomForestClassifier(3))])
def test_classes_may_be_of_any_kind(labels: list[Any], model: Any, tmp_path: Path) -> None:
    frame = table(120)
    task = "binary" if len(labels) == 2 else "multiclass"
    model.fit(frame, np.array(labels)[target(frame, task)])
    ordered = sorted(labels)
    for positive in ordered[:2] if task == "binary" else [None]:
        signature = Signature(
            columns=signature_of(frame, task).columns,
            target="y",
            task=task,
            classes=ordered,
            positive=positive,
            threshold=0.5 if positive is not None else None,
        )
        compile_model(model, signature, tmp_path)
        form = compiled.load(tmp_path)
        assert check(model, form, frame, signature) <= 1e-11
        assert np.allclose(
            form.predict(from_frame(frame, signature)), predict(model, frame, signature)
        )


def test_weights_of_rows_change_nothing_but_the_fit(tmp_path: Path) -> None:
    frame = table(150)
    y = target(frame, "binary")
    weights = np.random.default_rng(0).random(len(frame))
    for number, model in enumerate(
        (raw(HistGradientBoostingClassifier(max_iter=4)), scaled(LogisticRegression()))
    ):
        name = model.steps[-1][0]
        model.fit(frame, y, **{f"{name}__sample_weight": weights})
        signature = signature_of(frame, "binary")
        compile_model(model, signature, tmp_path / str(number))
        form = compiled.load(tmp_path / str(number))
        assert agree(model, form, wild(frame.iloc[:30]), signature).largest <= 1e-11


def test_a_column_may_be_taken_twice(tmp_path: Path) -> None:
    parts = [("a", SimpleImputer(), ["small", "count"]), ("b", SimpleImputer(), ["count"])]
    again = ColumnTransformer([("c", MinMaxScaler(), [2, 0, 0, 1])])
    make = make_pipeline(ColumnTransformer(parts), again, Ridge())
    largest, form = prove(make, table(), "regression", tmp_path)
    assert largest <= 1e-11
    assert set(form.columns) == {"small", "count"}


@pytest.mark.parametrize("dtype", ["float32", "Float64", "int8"])
def test_columns_of_another_width_are_equal_or_refused(dtype: str, tmp_path: Path) -> None:
    """scikit-learn computes in single precision then; a service has only doubles."""
    columns = ["whole"] if dtype == "int8" else ["small", "count"]
    frame = table()[columns].astype(dtype)
    signature = signature_of(frame, "regression")
    model = make_pipeline(StandardScaler(), SimpleImputer(), Ridge())
    model.fit(frame, target(table(), "regression"))
    held = table(80, seed=9)[columns].astype(dtype)

    def compile_and_prove() -> float:
        compile_model(model, signature, tmp_path)
        return compiled_table.prove_on(model, compiled.load(tmp_path), held, signature)

    if dtype == "float32":
        with pytest.raises(CompileRefused, match=r"differs|single precision"):
            compile_and_prove()
    else:
        assert compile_and_prove() <= 1e-11


def test_categories_of_pandas_are_texts_to_a_service(tmp_path: Path) -> None:
    frame = table()
    frame["colour"] = frame["colour"].astype("category")
    model = ColumnTransformer([("n", SimpleImputer(), NUMBERS[:2]), ("t", one_hot(), ["colour"])])
    fitted = make_pipeline(model, Ridge()).fit(frame, target(table(), "regression"))
    signature = signature_of(frame, "regression")
    compile_model(fitted, signature, tmp_path)
    form = compiled.load(tmp_path)
    rows = wild(table(40, seed=3))
    assert agree(fitted, form, rows, signature).largest <= 1e-11


def test_histogram_boosting_takes_categories_from_their_type(tmp_path: Path) -> None:
    frame = table()[["small", "colour", "count"]]
    frame["colour"] = frame["colour"].astype("category")
    model = HistGradientBoostingClassifier(max_iter=5).fit(frame, target(table(), "binary"))
    signature = signature_of(frame, "binary")
    compile_model(model, signature, tmp_path)
    form = compiled.load(tmp_path)
    largest = compiled_table.prove_on(model, form, table(90, seed=2)[list(frame)], signature)
    assert largest == 0.0


def test_only_columns_that_matter_are_asked_for(tmp_path: Path) -> None:
    _, form = prove(numbers(columns=["small", "count"])("binary"), table(), "binary", tmp_path)
    assert set(form.columns) == {"small", "count"}


def test_checks_of_columns_that_are_then_dropped_remain(tmp_path: Path) -> None:
    """scikit-learn refuses an infinity even in a column that a selector leaves out."""
    from sklearn.feature_selection import SelectKBest

    model = numbers(SelectKBest(k=1), columns=["small", "large"])("regression")
    _, form = prove(model, table(), "regression", tmp_path)
    rows = wild(table(60, seed=8))
    found = agree(model, form, rows, signature_of(table(), "regression"))
    assert found.both_refuse
    assert not found.only_form_refuses


def test_wide_one_hot_columns_need_no_square_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": [f"n{i}" for i in range(400)]}, dtype="str")
    model = make_pipeline(one_hot(), Ridge()).fit(frame, np.arange(400.0))
    signature = Signature(
        columns=[Column(name="name", kind="string")], target="y", task="regression"
    )
    compile_model(model, signature, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000
    form = compiled.load(tmp_path)
    expected = predict(model, frame, signature)
    assert np.allclose(form.predict(from_frame(frame, signature)), expected, atol=1e-11)


def test_sums_of_leaves_are_equal_to_the_last_bit(tmp_path: Path) -> None:
    """Half the scores are exactly 0.5 here, and each decides as scikit-learn decides."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"small": rng.integers(0, 2, 80), "count": rng.integers(0, 2, 80)}) * 1.0
    y = rng.integers(0, 2, 80)
    signature = signature_of(frame, "binary")
    for number, model in enumerate(
        (RandomForestClassifier(10, random_state=0), HistGradientBoostingClassifier(max_iter=30))
    ):
        folder = tmp_path / str(number)
        compile_model(model.fit(frame, y), signature, folder)
        given = compiled.load(folder).predict(from_frame(frame, signature))
        assert np.array_equal(given, predict(model, frame, signature))
