"""Training: the same inputs give the same bundle; errors say what to do; the bundle tells all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import get_native_id
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from trilho import bundle, compiled, config, dataset
from trilho.bundle import Golden
from trilho.errors import UsageError
from trilho.training import Scorer, Trained, describe, train
from trilho.training import fingerprint as prints
from trilho.training.estimator import build
from trilho.training.idle import beside
from trilho.training.search import parameter
from trilho.training.threshold import best

HERE = Path(__file__).parent
FINGERPRINT = "sha256:" + "0" * 64


def frame(rows: int = 700, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    data = pd.DataFrame(
        {
            "id": np.arange(rows),
            "a": rng.normal(size=rows),
            "b": rng.integers(-5, 5, size=rows),
            "flag": rng.random(rows) < 0.5,
            "colour": rng.choice(["red", "green", "blue"], size=rows),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(rows) % 90, unit="D"),
            "group": rng.choice(["x", "y"], size=rows),
        }
    )
    value = data["a"] + 0.2 * data["b"] + (data["colour"] == "red") + rng.normal(0, 0.8, rows)
    data.loc[rng.random(rows) < 0.1, "a"] = None
    data["binary"] = np.where(value > 0.5, "yes", "no")
    data["classes"] = np.digitize(value, [-0.5, 0.8])
    data["number"] = value
    return data


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a schema and a project, as the working folder."""
    frame().to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "schema.yaml").write_text("schema_type: dataframe\n")
    (tmp_path / "training_project.py").write_text((HERE / "training_project.py").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipeline(target: str = "binary", task: str | None = None, **model: Any) -> config.Pipeline:
    drop = [t for t in ("binary", "classes", "number") if t != target]
    return config.Pipeline.model_validate(
        {
            "name": "test",
            "data": {
                "path": "data.csv",
                "schema": "schema.yaml",
                "target": target,
                "task": task,
                "id": "id",
                "drop": [*drop, "group"],
            },
            "model": model,
            "evaluation": {"resamples": 100, "slices": ["group"]},
        }
    )


def run(settings: config.Pipeline, folder: Path, tell: Any = lambda _: None) -> Trained:
    data = dataset.read(settings.data)
    held = dataset.holdout(data, settings.data.split)
    return train(settings, data, held, folder, fingerprint=FINGERPRINT, lock=None, tell=tell)


def test_sensitive_columns_are_marked_in_the_signature(project: Path) -> None:
    data = dataset.read(pipeline(factory="training_project:hist").data)
    plain = describe.signature(data, data.x(), 0.5)
    assert b"sensitive" not in bundle.canonical(plain)  # the digests of such bundles stay
    first = plain.columns[0].name
    marked = describe.signature(data, data.x(), 0.5, ["id", "group", first])
    assert marked.sensitive == ["id", first]  # not what the model does not see


# ── the bundle ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "task", "model"),
    [
        ("binary", "binary", {"factory": "training_project:hist"}),
        ("binary", "binary", {"estimator": "sklearn.linear_model.LogisticRegression"}),
        ("classes", "multiclass", {"estimator": "sklearn.ensemble.RandomForestClassifier"}),
        ("number", "regression", {"factory": "training_project:regress"}),
        ("number", "regression", {"estimator": "sklearn.linear_model.Ridge"}),
    ],
)
def test_a_whole_bundle_for_each_task(
    project: Path, target: str, task: str, model: dict[str, Any]
) -> None:
    trained = run(pipeline(target, **model), project / "run" / "bundle")
    manifest, _ = bundle.verify(trained.folder, trained.digest)
    assert set(manifest.files) >= {
        *("model.joblib", "signature.json", "golden.json", "reference.json"),
        *("evaluation.json", "model_card.md", "compiled/plan.json", "compiled/arrays.npz"),
    }
    assert (manifest.task, manifest.serving, manifest.serving_reason) == (task, "compiled", None)
    assert manifest.largest_difference is not None
    assert manifest.largest_difference <= 1e-9
    assert trained.measurements.row_microseconds > 0
    assert trained.measurements.model_bytes > 500
    assert trained.search is None
    signature = bundle.read_signature(trained.folder)
    kinds = {c.name: c.kind for c in signature.columns}
    assert kinds == {
        "a": "number",
        "b": "integer",
        "flag": "boolean",
        "colour": "string",
        "day": "date",
    }
    required = {c.name: c.required for c in signature.columns}
    assert required == {"a": False, "b": True, "flag": True, "colour": True, "day": True}
    assert next(c for c in signature.columns if c.name == "colour").categories == [
        *("blue", "green", "red")
    ]
    expected_classes = {"binary": ["no", "yes"], "multiclass": [0, 1, 2], "regression": None}
    assert signature.classes == expected_classes[task]
    card = (trained.folder / "model_card.md").read_text()
    for part in ("Intended use", "held out", "group = x", "Fairness", "Limits", FINGERPRINT):
        assert part in card

    data = dataset.read(pipeline(target, **model).data)
    rows = dataset.holdout(data, config.Split())
    again = Scorer(trained.folder)(data.frame[rows])
    assert np.allclose(again, trained.scores, rtol=0, atol=1e-12)
    if task == "binary":
        auc = roc_auc_score(data.y()[rows] == "yes", trained.scores)
        assert manifest.metrics["roc_auc"] == pytest.approx(auc)
        assert auc > 0.7


def test_golden_rows_are_typical_and_edge_rows_with_the_serving_forms_scores(
    project: Path,
) -> None:
    trained = run(pipeline(factory="training_project:hist"), project / "bundle")
    golden: Golden = bundle.read_golden(trained.folder)
    assert 12 <= len(golden.rows) <= 24
    assert len(golden.expected) == len(golden.rows)
    assert any(row["a"] is None for row in golden.rows)
    assert all(row["b"] is not None for row in golden.rows)
    assert any(isinstance(row["a"], float) and abs(row["a"]) == 1e300 for row in golden.rows)
    assert {type(row["flag"]) for row in golden.rows} == {bool}
    assert {type(row["b"]) for row in golden.rows} == {int}
    assert max(golden.expected) - min(golden.expected) > 0.3
    form = compiled.load(trained.folder)
    one = golden.rows[0]
    columns = {n: np.array([np.nan if one[n] is None else float(one[n])]) for n in form.columns}
    assert form.predict(columns)[0] == pytest.approx(golden.expected[0], abs=1e-12)


def test_the_reference_is_a_small_sketch(project: Path) -> None:
    trained = run(pipeline(factory="training_project:hist"), project / "bundle")
    path = trained.folder / "reference.json"
    found = json.loads(path.read_bytes())
    assert path.stat().st_size < 20_000
    data = dataset.read(pipeline(factory="training_project:hist").data)
    seen = data.frame[~dataset.holdout(data, config.Split())]
    assert found["rows"] == len(seen)
    a = found["columns"]["a"]
    assert a["missing"] == pytest.approx(seen["a"].isna().mean())
    assert len(a["quantiles"]) == 200
    assert a["quantiles"][0] == pytest.approx(seen["a"].min(), rel=1e-5)
    assert a["quantiles"][-1] == pytest.approx(seen["a"].max(), rel=1e-5)
    assert sum(found["columns"]["colour"]["shares"].values()) == pytest.approx(1)
    assert "group" not in found["columns"]
    assert found["score_rows"] == trained.manifest.dataset.holdout_rows


def test_a_model_without_a_rule_is_served_by_scikit_learn(project: Path) -> None:
    settings = pipeline(
        estimator="sklearn.neighbors.KNeighborsClassifier", params={"n_neighbors": 7}
    )
    trained = run(settings, project / "bundle")
    assert trained.manifest.serving == "sklearn"
    reason = trained.manifest.serving_reason
    assert reason == "CompileRefused: no rule for sklearn.neighbors.KNeighborsClassifier"
    assert trained.manifest.largest_difference is None
    assert not (trained.folder / "compiled").exists()
    data = dataset.read(settings.data)
    rows = dataset.holdout(data, config.Split())
    assert np.allclose(Scorer(trained.folder)(data.frame[rows]), trained.scores)
    assert "served by scikit-learn" in (trained.folder / "model_card.md").read_text()


# ── determinism ───────────────────────────────────────────────────────────────────────────────────

TWICE = """
import sys, json
from pathlib import Path
import joblib
from trilho import config, dataset
from trilho.training import train
settings = config.Pipeline.model_validate(json.loads(Path("settings.json").read_text()))
data = dataset.read(settings.data)
with joblib.parallel_config(n_jobs=int(sys.argv[2]), backend="threading"):
    held = dataset.holdout(data, settings.data.split)
    folder = Path(sys.argv[1])
    print(train(settings, data, held, folder, fingerprint="sha256:0", lock=None).digest)
"""
SEARCHED = {"space": {"learning_rate": {"low": 0.01, "high": 0.5, "log": True}}, "iterations": 3}


@pytest.mark.parametrize(
    "model",
    [
        {
            "factory": "training_project:hist",
            "search": SEARCHED | {"folds": 2},
            "threshold": {"maximise": "f1"},
        },
        {"estimator": "sklearn.ensemble.RandomForestClassifier", "params": {"n_estimators": 20}},
    ],
    ids=["search", "forest"],
)
def test_the_same_inputs_give_the_same_bytes_in_any_process(
    project: Path, model: dict[str, Any]
) -> None:
    settings = pipeline(**model)
    Path("settings.json").write_text(settings.model_dump_json(by_alias=True))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWICE, f"run{seed}/bundle", str(jobs)],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, jobs in ((1, 1), (2, 2))
    ]
    first, second = (process.communicate()[0].strip() for process in runs)
    assert first.startswith("sha256:")
    names = [p.relative_to("run1") for p in Path("run1").rglob("*") if p.is_file()]
    one, two = Path("run1"), Path("run2")
    assert [n for n in names if (one / n).read_bytes() != (two / n).read_bytes()] == []
    assert first == second


# ── search and threshold ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["random", "halving"])
def test_the_search_keeps_the_best_setting_and_tells_all(project: Path, method: str) -> None:
    space = {"learning_rate": [1e-9, 0.1, 0.3], "max_leaf_nodes": {"low": 3, "high": 9}}
    said: list[str] = []
    settings = pipeline(
        factory="training_project:hist",
        params={"max_iter": 8},
        search={"method": method, "space": space, "iterations": 5, "folds": 2},
    )
    trained = run(settings, project / "bundle", said.append)
    tried = trained.search
    assert tried is not None
    assert len(tried) >= 5
    assert all(
        3 <= t["parameters"]["histgradientboostingclassifier__max_leaf_nodes"] <= 9 for t in tried
    )
    last = [t for t in tried if t["rows"] == tried[-1]["rows"]]
    top = max(last, key=lambda t: t["score"])
    chosen = trained.manifest.parameters
    assert chosen["max_iter"] == 8
    assert {k: chosen[k] for k in top["parameters"]} == top["parameters"]
    assert sum("best" in line for line in said) == len(tried)


def test_the_search_stops_when_the_time_is_up(project: Path) -> None:
    search = SEARCHED | {"iterations": 1000, "folds": 2, "budget_minutes": 0.01}
    said: list[str] = []
    trained = run(
        pipeline(factory="training_project:hist", search=search), project / "bundle", said.append
    )
    assert trained.search is not None
    assert 1 <= len(trained.search) < 100
    assert any("the time is up" in line for line in said)


def test_only_training_rows_are_searched(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trilho.training import search as module

    seen: list[int] = []
    original = module.search

    def spy(estimator: Any, x: Any, *rest: Any) -> Any:
        seen.extend(x.index)
        return original(estimator, x, *rest)

    monkeypatch.setattr(module, "search", spy)
    settings = pipeline(factory="training_project:hist", search=SEARCHED | {"folds": 2})
    data = dataset.read(settings.data)
    run(settings, project / "bundle")
    assert set(seen) == set(np.flatnonzero(~dataset.holdout(data, config.Split())))


def test_parameters_may_be_named_short() -> None:
    model = build(config.Model(factory="training_project:hist"), {}, "binary")
    assert parameter(model, "max_iter") == "histgradientboostingclassifier__max_iter"
    with pytest.raises(UsageError, match="no parameter 'max_itre'; did you mean 'max_iter'"):
        parameter(model, "max_itre")


def test_an_unknown_search_metric_is_named(project: Path) -> None:
    search = SEARCHED | {"metric": "roc_auk"}
    with pytest.raises(UsageError, match="did you mean 'roc_auc'"):
        run(pipeline(factory="training_project:hist", search=search), project / "bundle")


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=4, max_size=40).filter(
        lambda rows: 0 < sum(t for t, _ in rows) < len(rows)
    ),
    st.sampled_from(["f1", "balanced_accuracy", "accuracy", "ks"]),
)
def test_the_threshold_is_the_best_of_all(rows: list[tuple[bool, int]], metric: str) -> None:
    truth = np.array([t for t, _ in rows])
    scores = np.array([s / 6 for _, s in rows])
    measure = {
        "f1": lambda d: f1_score(truth, d, zero_division=0),
        "accuracy": lambda d: (truth == d).mean(),
        "balanced_accuracy": lambda d: balanced_accuracy_score(truth, d),
        "ks": lambda d: 2 * balanced_accuracy_score(truth, d) - 1,
    }[metric]
    found = best(truth, scores, metric)
    assert 0 <= found <= 1
    every = [measure(scores >= s) for s in np.unique(scores)]
    assert measure(scores >= found) == pytest.approx(max(every))


def test_the_threshold_is_chosen_or_fixed(project: Path) -> None:
    model = {"factory": "training_project:hist"}
    fixed = run(pipeline(**model, threshold=0.3), project / "1" / "bundle")
    assert bundle.read_signature(fixed.folder).threshold == 0.3
    assert fixed.evaluation.threshold == 0.3
    chosen = run(
        pipeline(**model, threshold={"maximise": "balanced_accuracy"}), project / "2" / "bundle"
    )
    threshold = bundle.read_signature(chosen.folder).threshold
    assert threshold is not None
    assert 0.1 < threshold < 0.9
    assert threshold not in (0.3, 0.5)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (
            {"factory": "training_projct:hist"},
            "no module 'training_projct'; did you mean 'training_project",
        ),
        ({"factory": "training_project:hits"}, "no function 'hits'; did you mean 'hist'"),
        ({"factory": "training_project:nothing"}, "dict, which is not a scikit-learn estimator"),
        ({"factory": "training_project:a_class"}, "the class LogisticRegression"),
        ({"factory": "training_project:broken"}, "RuntimeError: no luck"),
        ({"factory": "training_project:regress"}, "no classifier; the task is binary"),
        ({"factory": "training_project:machine"}, "no predict_proba"),
        (
            {"factory": "training_project:narrow", "params": {"deth": 3}},
            "no parameter 'deth'; did you mean 'depth'",
        ),
        (
            {"factory": "training_project:hist", "params": {"max_itr": 3}},
            "no parameter 'max_itr'; did you mean 'max_iter'",
        ),
        (
            {"factory": "training_project:logistic"},
            "fitted to data.csv: Input X contains NaN",
        ),
        ({"factory": "training_project:narrow"}, "cannot be fitted to data.csv"),
        ({"estimator": "sklearn.svm.SVCC"}, "no 'SVCC'; did you mean 'SVC'"),
        ({"estimator": "SVC"}, "is no dotted path"),
        ({"estimator": "sklearn.nowhere.SVC"}, "no module 'sklearn.nowhere'"),
        (
            {"estimator": "sklearn.linear_model.LogisticRegression", "params": {"c": 1}},
            "no parameter 'c'",
        ),
    ],
)
def test_a_model_that_cannot_be_is_explained(
    project: Path, model: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run(pipeline(**model), project / "bundle")
    assert problem in caught.value.message


def test_a_project_in_src_is_found_and_its_broken_import_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "src" / "mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    code = "from sklearn.svm import SVC\ndef make(): return SVC(probability=True)\n"
    (folder / "good.py").write_text(code)
    (folder / "bad.py").write_text("import not_installed_anywhere\n")
    (folder / "wrong.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    found = build(config.Model(factory="mine.good:make", seed=7), {}, "binary")
    assert found.random_state == 7
    with pytest.raises(UsageError, match="imports 'not_installed_anywhere'"):
        build(config.Model(factory="mine.bad:make"), {}, "binary")
    with pytest.raises(UsageError, match="cannot be imported: SyntaxError"):
        build(config.Model(factory="mine.wrong:make"), {}, "binary")
    with pytest.raises(UsageError, match=r"did you mean 'mine\.good'"):
        build(config.Model(factory="mine.goood:make"), {}, "binary")
    assert sys.path == path
    for name in [n for n in sys.modules if n.split(".")[0] == "mine"]:
        del sys.modules[name]


# ── the fingerprint ───────────────────────────────────────────────────────────────────────────────


def changed(project: Path, change: Any, **model: Any) -> set[str]:
    """Names of the parts that a change touches."""
    settings = pipeline(**{"factory": "training_project:hist"} | model)
    before, whole = (
        prints.parts(settings, "sha256:1"),
        prints.fingerprint(prints.parts(settings, "sha256:1")),
    )
    after, digest = change(settings) or (settings, "sha256:1")
    now = prints.parts(after, digest)
    assert (prints.fingerprint(prints.parts(after, digest)) == whole) == (before == now)
    return {name for name in before if before[name] != now[name]}


def with_(section: str, **values: Any) -> Any:
    def change(settings: config.Pipeline) -> Any:
        tree = settings.model_dump(by_alias=True)
        tree[section] = {**(tree[section] or {}), **values}
        return config.Pipeline.model_validate(tree), "sha256:1"

    return change


def write(path: str, text: str) -> Any:
    def change(_: config.Pipeline) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: None, set()),
        (lambda s: (s, "sha256:2"), {"dataset"}),
        (with_("data", path="s3://elsewhere/data.csv"), set()),
        (with_("data", checks={"min_rows": 7}), set()),
        (with_("gates", slices={"margin": 0.2}), set()),
        (with_("data", drop=["number"]), {"data"}),
        (with_("data", split={"seed": 1}), {"data"}),
        (with_("model", seed=1), {"model"}),
        (with_("model", params={"max_iter": 3}), {"model"}),
        (with_("evaluation", resamples=200), {"evaluation"}),
        (write("schema.yaml", "other"), {"schema"}),
        (write("training_project.py", "other"), {"project"}),
        (write("README.md", "other"), set()),
        (write("requirements.txt", "numpy==1"), {"lock"}),
    ],
)
def test_the_fingerprint_tells_what_changed(project: Path, change: Any, parts: set[str]) -> None:
    assert changed(project, change) == parts


def test_other_versions_make_another_model_whatever_the_lock_says(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("requirements.txt", "numpy")(None)  # of a caller who pins nothing

    def other_python(_: config.Pipeline) -> None:
        monkeypatch.setattr("platform.python_version_tuple", lambda: ("3", "99", "0"))

    assert changed(project, other_python) == {"environment"}

    def other_numpy(_: config.Pipeline) -> None:
        monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1")

    assert changed(project, other_numpy) == {"environment"}


def test_the_whole_package_of_the_factory_counts(project: Path) -> None:
    write("src/pack/__init__.py", "")(None)
    write("src/pack/deep/model.py", "1")(None)
    factory = "pack.deep.model:make"
    change = write("src/pack/other/helper.py", "2")
    assert changed(project, change, factory=factory) == {"project"}
    assert changed(project, write("src/pack/notes.txt", "3"), factory=factory) == set()


def test_a_missing_schema_is_named(project: Path) -> None:
    Path("schema.yaml").unlink()
    with pytest.raises(UsageError, match=r"schema\.yaml does not exist"):
        prints.parts(pipeline(factory="training_project:hist"), "sha256:1")


def test_the_fingerprint_imports_no_training_stack(project: Path) -> None:
    settings = pipeline(factory="training_project:hist").model_dump_json(by_alias=True)
    code = f"""
import sys, json
from trilho import config
from trilho.training import fingerprint
settings = config.Pipeline.model_validate(json.loads({settings!r}))
print(fingerprint.fingerprint(fingerprint.parts(settings, "sha256:1")))
heavy = {{"sklearn", "pandas", "scipy", "numpy", "training_project"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    expected = prints.fingerprint(
        prints.parts(pipeline(factory="training_project:hist"), "sha256:1")
    )
    assert done.stdout.strip() == expected


# ── beside a fit ──────────────────────────────────────────────────────────────────────────────────


def test_work_beside_a_fit_takes_only_what_the_fit_leaves() -> None:
    own, turn = os.nice(0), sys.getswitchinterval()
    with beside(lambda: os.getpriority(os.PRIO_PROCESS, get_native_id()), gently=True) as priority:
        assert sys.getswitchinterval() < turn
    assert sys.getswitchinterval() == turn
    assert os.nice(0) == own
    if sys.platform == "linux":
        assert priority.result() == min(19, own + 10)
    with beside(lambda: os.getpriority(os.PRIO_PROCESS, get_native_id()), gently=False) as priority:
        pass
    assert priority.result() == own


def test_what_fails_beside_a_fit_is_raised_where_it_is_asked_for() -> None:
    with beside(lambda: 1 / 0, gently=True) as failed:
        done = True
    assert done
    with pytest.raises(ZeroDivisionError):
        failed.result()
