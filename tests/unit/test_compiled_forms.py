"""Damaged and hostile forms: refused with what is wrong, and nothing is executed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_models import NUMBERS, prove, table
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from trilho import compiled
from trilho.compiled.plan import ARRAYS, PLAN
from trilho.errors import DataError, IntegrityError
from trilho.features import ArrayFeatures


@pytest.fixture
def form_folder(tmp_path: Path) -> Path:
    """A form with a formula, trees and a lookup."""

    def ratio(c: Any) -> Any:
        return {"r": c["small"] / (1 + c["large"] ** 2), "s": np.where(c["flag"] > 0, 1.0, 2.0)}

    text = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    model = make_pipeline(
        ColumnTransformer([("f", ArrayFeatures(ratio), NUMBERS), ("t", text, ["colour"])]),
        HistGradientBoostingClassifier(max_iter=15),
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
    "another width": (lambda p: node(p, "stack")["inputs"].pop(), "out of range"),
    "another kind of trees": (lambda p: node(p, "trees")["args"].update(kind="x"), "expected one"),
    "more outputs": (lambda p: node(p, "trees")["args"].update(outputs=3), "do not fit"),
    "no outputs": (lambda p: node(p, "trees")["args"].update(outputs=0), "0 columns"),
    "truth as a number": (lambda p: node(p, "trees")["args"].update(outputs=True), "'outputs'"),
    "another task": (lambda p: p.update(task="multiclass"), "does not fit its task"),
    "another format": (lambda p: p.update(format=1), "format 1"),
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
    with pytest.raises(IntegrityError, match="of type object"):
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
    arrays = form_folder / ARRAYS
    data = arrays.read_bytes()
    arrays.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="cannot be read"):
        compiled.load(form_folder)
    arrays.write_bytes(data)
    compiled.load(form_folder)
    arrays.unlink()
    with pytest.raises(IntegrityError, match=r"lacks arrays\.npz"):
        compiled.load(form_folder)
    (form_folder / PLAN).write_text("[" * 100_000)
    with pytest.raises(IntegrityError, match="cannot be read"):
        compiled.load(form_folder)


def rewrite(folder: Path, change: Callable[[dict[str, Any], Any], None]) -> None:
    """Change the arrays of the plan's trees, by the names of their arguments."""
    plan = json.loads((folder / PLAN).read_bytes())
    names = node(plan, "trees")["arrays"]
    with np.load(folder / ARRAYS) as archive:
        arrays = {name: np.array(archive[name]) for name in archive.files}
    own = {argument: arrays[name] for argument, name in names.items()}
    change(own, plan)
    arrays |= {names[argument]: array for argument, array in own.items()}
    np.savez(folder / ARRAYS, **arrays)


def put(name: str, value: Any) -> Callable[[dict[str, Any], Any], None]:
    def change(own: dict[str, Any], _plan: Any) -> None:
        own[name] = own[name].astype(np.int64 if isinstance(value, int) else np.float64)
        own[name][np.flatnonzero(own["left"] != -1)[0]] = value

    return change


TREES: dict[str, tuple[Callable[[dict[str, Any], Any], None], str]] = {
    "a feature that is none": (put("feature", 1000), "'feature' holds a number out of range"),
    "a negative feature": (put("feature", -1), "'feature' holds a number out of range"),
    "a child before its parent": (put("left", 0), "has a child out of place"),
    "a child of another tree": (put("right", 1_000_000), "has a child out of place"),
    "half a leaf": (put("right", -1), "has a child out of place"),
    "another way": (put("missing_left", 2), "'missing_left' holds a number out of range"),
    "no whole numbers": (put("left", 0.5), "lacks its array of whole numbers"),
    "a size too large": (lambda a, _: a.update(sizes=a["sizes"] + 1), "lacks its array"),
    "no trees": (lambda a, _: a.update(sizes=a["sizes"][:0]), "lacks its array"),
    "an array too short": (lambda a, _: a.update(right=a["right"][1:]), "differ in length"),
    "leaves of their own": (lambda a, _: a.update(leaves=np.zeros((3, 1))), "do not fit"),
    "categories that are none": (
        lambda a, _: a.update(bitset=np.zeros(len(a["left"]), np.int64)),
        "do not fit",
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_that_point_elsewhere_are_refused(form_folder: Path, name: str) -> None:
    change, problem = TREES[name]
    rewrite(form_folder, change)
    with pytest.raises(IntegrityError, match=problem):
        compiled.load(form_folder)


def test_an_array_takes_no_more_memory_than_its_file(form_folder: Path) -> None:
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(form_folder / ARRAYS, "w") as archive:
        archive.writestr("a0.npy", header.getvalue() + bytes(80))
    with pytest.raises(IntegrityError, match="not as long as it says"):
        compiled.load(form_folder)


def test_a_plan_cannot_ask_for_more_memory_than_a_row_may_take(form_folder: Path) -> None:
    wide = {"op": "one_hot", "inputs": [[0, -1]], "args": {"width": 1 << 20}, "arrays": {}}
    edit(form_folder, lambda p: p["nodes"].extend([wide] * 17))
    with pytest.raises(IntegrityError, match="values a row"):
        compiled.load(form_folder)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, Path]:
    folder = tmp_path_factory.mktemp("good")
    text = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    parts = [("n", "passthrough", ["whole"]), ("t", text, ["colour"])]
    model = make_pipeline(ColumnTransformer(parts), HistGradientBoostingClassifier(max_iter=2))
    prove(model, table(missing=0), "binary", folder)
    return (folder / PLAN).read_bytes(), (folder / ARRAYS).read_bytes(), folder


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_byte_may_be_wrong(good: tuple[bytes, bytes, Path], data: st.DataObject) -> None:
    """A form with wrong bytes is refused, or is another form; it never fails in another way."""
    plan, arrays, folder = good
    for name, whole in ((PLAN, plan), (ARRAYS, arrays)):
        changed = bytearray(whole)
        for _ in range(data.draw(st.integers(0, 3))):
            changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        (folder / name).write_bytes(changed)
    _load_and_score(folder)


def _load_and_score(folder: Path) -> None:
    try:
        form = compiled.load(folder)
        row = {n: np.array([None] if text else [1.0]) for n, text in form.columns.items()}
        form.predict(row)
    except (IntegrityError, DataError):
        pass


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_number_may_be_wrong(good: tuple[bytes, bytes, Path], data: st.DataObject) -> None:
    """As above, but behind the checksums of the file."""
    plan, whole, folder = good
    (folder / PLAN).write_bytes(plan)
    with np.load(io.BytesIO(whole)) as archive:
        arrays = {name: np.array(archive[name]) for name in archive.files}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(n for n in arrays if arrays[n].size)))
        array = arrays[name]
        limits = np.iinfo(array.dtype) if array.dtype.kind == "i" else None
        value = (
            data.draw(st.floats())
            if limits is None
            else data.draw(st.integers(int(limits.min), int(limits.max)))
        )
        array.flat[data.draw(st.integers(0, array.size - 1))] = value
    np.savez(folder / ARRAYS, **arrays)
    _load_and_score(folder)
