"""The compiled form: equal to scikit-learn or refused, and nothing but data."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from compiled_models import KINDS, NUMBERS, check, prove, signature_of, table, target
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
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from trilho import compiled
from trilho.compiled.plan import ARRAYS, PLAN
from trilho.errors import DataError, IntegrityError
from trilho.features import ArrayFeatures, NumberColumns
from trilho.training.columns import from_frame, take
from trilho.training.compile import CompileRefused, compile_model
from trilho.training.preprocessing import preprocess
from trilho.training.proof import prove as prove_forms

Make = Callable[[str], Any]


def of(classifier: Any, regressor: Any, **params: Any) -> Callable[[str], Any]:
    return lambda task: (regressor if task == "regression" else classifier)(**params)


def logistic(_: str = "") -> Any:
    return LogisticRegression(max_iter=300)


hist = of(HistGradientBoostingClassifier, HistGradientBoostingRegressor, max_iter=15)
forest = of(RandomForestClassifier, RandomForestRegressor, n_estimators=12, random_state=0)
median = SimpleImputer(strategy="median")


def parts(text: Any, *steps: Any, **params: Any) -> ColumnTransformer:
    numeric = make_pipeline(NumberColumns(), *steps)
    columns = [*NUMBERS, "day"]
    return ColumnTransformer([("n", numeric, columns), ("t", text, ["colour", "name"])], **params)


def one_hot(**params: Any) -> OneHotEncoder:
    return OneHotEncoder(**{"handle_unknown": "ignore", **params})


def ordinal(**params: Any) -> OrdinalEncoder:
    settings = {"handle_unknown": "use_encoded_value", "unknown_value": np.nan, **params}
    return OrdinalEncoder(**settings)


BOTH = ("binary", "multiclass")
ALL = (*BOTH, "regression")
MODELS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "logistic": (lambda t: preprocess(logistic(), KINDS), BOTH),
    "hist": (lambda t: preprocess(hist(t), KINDS), ALL),
    "forest": (lambda t: preprocess(forest(t), KINDS), ALL),
    "extra trees": (
        lambda t: preprocess(
            of(ExtraTreesClassifier, ExtraTreesRegressor, n_estimators=12, random_state=0)(t),
            KINDS,
        ),
        ALL,
    ),
    "boosting": (
        lambda t: preprocess(
            of(GradientBoostingClassifier, GradientBoostingRegressor, n_estimators=12)(t), KINDS
        ),
        ALL,
    ),
    "tree": (
        lambda t: preprocess(
            of(DecisionTreeClassifier, DecisionTreeRegressor, max_depth=6, random_state=0)(t),
            KINDS,
        ),
        ALL,
    ),
    "hist, NaN for unknown": (lambda t: make_pipeline(parts(ordinal()), hist(t)), ALL),
    "hist, its own categories": (
        lambda t: make_pipeline(
            ColumnTransformer([("p", "passthrough", ["whole", "count"])], remainder="drop"),
            of(
                HistGradientBoostingClassifier,
                HistGradientBoostingRegressor,
                max_iter=15,
                categorical_features=[0],
            )(t),
        ),
        ALL,
    ),
    "poisson": (
        lambda t: make_pipeline(
            parts(ordinal()),
            of(None, HistGradientBoostingRegressor, loss="absolute_error", max_iter=10)(t),
        ),
        ("regression",),
    ),
    "one-hot, dropped": (
        lambda t: make_pipeline(
            parts(
                one_hot(drop="first"),
                SimpleImputer(strategy="median", add_indicator=True),
                MinMaxScaler(clip=True),
            ),
            logistic(),
        ),
        BOTH,
    ),
    "one-hot, rare joined": (
        lambda t: make_pipeline(
            parts(
                one_hot(min_frequency=10, handle_unknown="infrequent_if_exist"),
                median,
                MaxAbsScaler(),
            ),
            logistic(),
        ),
        BOTH,
    ),
    "ordinal, rare joined": (
        lambda t: make_pipeline(
            parts(ordinal(max_categories=5, unknown_value=-1, encoded_missing_value=-2), median),
            forest(t),
        ),
        ALL,
    ),
    "numbers as categories": (
        lambda t: make_pipeline(
            ColumnTransformer(
                [
                    ("a", ordinal(unknown_value=-1, encoded_missing_value=-2), ["whole", "count"]),
                    ("b", one_hot(), ["whole", "count", "flag"]),
                ],
                sparse_threshold=0,
            ),
            logistic(),
        ),
        BOTH,
    ),
    "imputed text": (
        lambda t: make_pipeline(
            parts(
                make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot()),
                SimpleImputer(strategy="constant", fill_value=-7),
                FunctionTransformer(np.cbrt),
                StandardScaler(),
            ),
            logistic(),
        ),
        BOTH,
    ),
    "remainder and union": (
        lambda t: make_pipeline(
            ColumnTransformer(
                [
                    ("t", ordinal(unknown_value=-1, encoded_missing_value=-2), ["colour", "name"]),
                    ("d", NumberColumns(), make_column_selector(dtype_include="datetime")),
                ],
                remainder="passthrough",
            ),
            median,
            FeatureUnion([("a", StandardScaler()), ("b", "passthrough"), ("c", MinMaxScaler())]),
            of(LogisticRegression, Ridge)(t),
        ),
        ALL,
    ),
    "frames between steps": (
        lambda t: make_pipeline(
            ColumnTransformer(
                [("n", median, ["small", "large"]), ("w", "passthrough", ["whole"])],
                verbose_feature_names_out=False,
            ).set_output(transform="pandas"),
            ColumnTransformer([("s", StandardScaler(), ["whole", "small"])]),
            of(LogisticRegression, LinearRegression)(t),
        ),
        ALL,
    ),
    "lasso": (
        lambda t: make_pipeline(parts(one_hot(), median, StandardScaler()), Lasso(0.01)),
        ("regression",),
    ),
}


@pytest.mark.parametrize(
    ("name", "task", "missing"),
    [
        (name, task, missing)
        for name, (_, tasks) in MODELS.items()
        for task in tasks
        for missing in ([0.1, 0.0] if task == tasks[0] else [0.1])
    ],
)
def test_equal_to_scikit_learn(name: str, task: str, missing: float, tmp_path: Path) -> None:
    largest, _ = prove(MODELS[name][0](task), table(missing=missing), task, tmp_path)
    assert largest <= 1e-11


@pytest.mark.parametrize("make", [hist, forest], ids=["one column", "two columns"])
def test_the_score_is_of_the_positive_class(make: Make, tmp_path: Path) -> None:
    frame = table()
    _, first = prove(preprocess(make("binary"), KINDS), frame, "binary", tmp_path / "1", positive=1)
    _, zeroth = prove(
        preprocess(make("binary"), KINDS), frame, "binary", tmp_path / "0", positive=0
    )
    columns = from_frame(frame, signature_of(frame, "binary"))
    assert np.allclose(first.predict(columns) + zeroth.predict(columns), 1)
    assert np.corrcoef(first.predict(columns), target(frame, "binary"))[0, 1] > 0.5


def rows_mixed(c: Any) -> Any:
    return {"x": c["small"] - np.nanmean(c["small"])}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (make_pipeline(parts(one_hot(), median), SVC()), "no rule for sklearn.svm.SVC"),
        (
            make_pipeline(parts(one_hot(sparse_output=False), median), PCA(3), logistic()),
            "no rule for sklearn.decomposition.PCA",
        ),
        (make_pipeline(ArrayFeatures(rows_mixed), hist("binary")), "nanmean"),
        (
            make_pipeline(
                parts(one_hot(min_frequency=10, drop="first"), median, StandardScaler()),
                logistic(),
            ),
            "drops",
        ),
        (
            make_pipeline(FunctionTransformer(lambda x: x[["small", "large"]]), hist("binary")),
            "text column",
        ),
    ],
)
def test_what_has_no_rule_is_refused_with_its_name(model: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CompileRefused, match=reason):
        prove(model, table(), "binary", tmp_path)


def test_a_subclass_is_not_taken_for_its_parent(tmp_path: Path) -> None:
    class Doubled(StandardScaler):
        def transform(self, X: Any, copy: Any = None) -> Any:
            return 2 * super().transform(X)

    with pytest.raises(CompileRefused, match="Doubled"):
        prove(
            make_pipeline(parts("drop", median), Doubled(), logistic()), table(), "binary", tmp_path
        )


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pd.DataFrame, Path]:
    folder, frame = tmp_path_factory.mktemp("proven"), table()
    model = preprocess(logistic(), KINDS)
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
    own = table(300, seed=99)["large"].iloc[17]  # of the hold-out, no edge row has it
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
    model = make_pipeline(encoder, logistic()).fit(frame, target_of(frame))
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


# ── damaged and hostile forms ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def form_folder(tmp_path: Path) -> Path:
    """A form with a formula, trees and a lookup."""

    def ratio(c: Any) -> Any:
        return {"r": c["small"] / (1 + c["large"] ** 2), "s": np.where(c["flag"] > 0, 1.0, 2.0)}

    model = make_pipeline(
        ColumnTransformer([("f", ArrayFeatures(ratio), NUMBERS), ("t", ordinal(), ["colour"])]),
        hist("binary"),
    )
    prove(model, table(), "binary", tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[Any], Any]) -> None:
    plan = json.loads((folder / PLAN).read_bytes())
    change(plan)
    (folder / PLAN).write_text(json.dumps(plan))


def node(plan: Any, op: str) -> Any:
    return next(n for n in plan["nodes"] if n["op"] == op)


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unknown operation": (lambda p: node(p, "trees").update(op="os.system"), "unknown"),
    "look-ahead": (lambda p: node(p, "stack").update(inputs=[[99, -1]]), "refers to value 99"),
    "itself": (
        lambda p: p["nodes"][0].update(inputs=[[len(p["inputs"]), -1]]),
        "refers to value",
    ),
    "negative slot": (lambda p: node(p, "stack").update(inputs=[[-1, -1]]), "refers to value -1"),
    "no such column": (lambda p: p.update(output=[p["output"][0], 7]), "refers to column 7"),
    "no inputs": (lambda p: node(p, "stack").update(inputs=[]), "takes some inputs"),
    "text as numbers": (
        lambda p: node(p, "formula").update(
            inputs=[[[i["name"] for i in p["inputs"]].index("colour"), -1]]
            * len(node(p, "formula")["inputs"])
        ),
        "numbers only",
    ),
    "missing array": (
        lambda p: node(p, "formula")["arrays"].update(constants="zz"),
        "'zz' is missing",
    ),
    "unknown function": (
        lambda p: node(p, "formula")["args"]["steps"].append(["eval", 0]),
        "unknown function 'eval'",
    ),
    "wrong arity": (
        lambda p: node(p, "formula")["args"]["steps"].append(["add", 0]),
        "expected 2",
    ),
    "operand out of range": (
        lambda p: node(p, "formula")["args"]["steps"].append(["add", 0, 4711]),
        "value 4711",
    ),
    "output out of range": (
        lambda p: node(p, "formula")["args"].update(outputs=[-1]),
        "value -1",
    ),
    "truth as an index": (
        lambda p: node(p, "formula")["args"].update(outputs=[True]),
        "value True",
    ),
    "another width": (lambda p: node(p, "stack")["inputs"].pop(), "take 3 features"),
    "another file": (lambda p: node(p, "trees")["args"].update(file="../x"), "not possible"),
    "no file": (lambda p: node(p, "trees")["args"].update(file="x"), "'x' is missing"),
    "another task": (lambda p: p.update(task="multiclass"), "does not fit its task"),
    "another format": (lambda p: p.update(format=2), "format 2"),
    "repeated input": (lambda p: p["inputs"].append(p["inputs"][0]), "repeats an input"),
    "codes too few": (lambda p: node(p, "lookup")["args"].update(categories=["a"]), "do not fit"),
    "no list": (lambda p: p.update(nodes=3), "cannot be read"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_plan_is_refused(form_folder: Path, name: str) -> None:
    change, problem = CHANGES[name]
    edit(form_folder, change)
    with pytest.raises(IntegrityError, match=problem):
        compiled.load(form_folder)


def test_arrays_that_are_pickled_or_packed_are_refused(form_folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (exit, (3,))

    good = (form_folder / ARRAYS).read_bytes()
    np.savez(form_folder / ARRAYS, allow_pickle=True, a0=np.array([Bomb()], object))
    with pytest.raises(IntegrityError, match="cannot be read"):
        compiled.load(form_folder)
    np.savez_compressed(form_folder / ARRAYS, a0=np.zeros(10**6))
    with pytest.raises(IntegrityError, match="unexpected member"):
        compiled.load(form_folder)
    with zipfile.ZipFile(form_folder / ARRAYS, "w") as archive:
        archive.writestr("a0.npy", pickle.dumps(Bomb()))
    with pytest.raises(IntegrityError, match="cannot be read"):
        compiled.load(form_folder)
    for data in (b"", good[: len(good) // 2]):
        (form_folder / ARRAYS).write_bytes(data)
        with pytest.raises(IntegrityError):
            compiled.load(form_folder)


def test_missing_and_truncated_files_are_refused(form_folder: Path) -> None:
    trees = form_folder / "0.treelite"
    data = trees.read_bytes()
    trees.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="trees cannot be read"):
        compiled.load(form_folder)
    trees.write_bytes(data)
    compiled.load(form_folder)
    (form_folder / ARRAYS).unlink()
    with pytest.raises(IntegrityError, match=r"lacks arrays\.npz"):
        compiled.load(form_folder)


def test_trees_that_point_outside_are_refused(form_folder: Path) -> None:
    import treelite

    trees = form_folder / "0.treelite"
    for field, value in (("split_index", 1000), ("cleft", 0), ("cright", 1_000_000)):
        model = treelite.Model.deserialize_bytes(trees.read_bytes())
        accessor = model.get_tree_accessor(0)
        changed = np.array(accessor.get_field(field))
        changed[0] = value
        accessor.set_field(field, changed)
        good = trees.read_bytes()
        trees.write_bytes(model.serialize_bytes())
        with pytest.raises(IntegrityError, match="tree 0"):
            compiled.load(form_folder)
        trees.write_bytes(good)
