"""Feature functions: what they see, and that their compiled form computes the same bits."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trilho import features as module
from trilho.compiled.formula import FUNCTIONS, Formula
from trilho.features import ArrayFeatures, NumberColumns, numbers, texts
from trilho.training.refused import CompileRefused
from trilho.training.trace import trace

FRAME = pd.DataFrame(
    {
        "n": [1.5, None, -2.0],
        "i": [1, 2, 3],
        "b": [True, False, True],
        "gap": pd.array([True, None, False], dtype="boolean"),
        "d": pd.to_datetime(["1970-01-02T00:00", None, "1969-12-31T12:00"]),
        "t": pd.Series(["a", None, "c"], dtype="str"),
    }
)


def two(columns: Any) -> Any:
    return {"sum": columns["n"] + columns["i"], "late": columns["d"] > 0}


def test_the_function_sees_numbers_dates_and_booleans_as_floats() -> None:
    given_ = ArrayFeatures(two).fit(FRAME).transform(FRAME)
    assert np.array_equal(given_, [[2.5, 1], [np.nan, 0], [1, 0]], equal_nan=True)
    assert np.array_equal(numbers(FRAME["gap"]), [1, np.nan, 0], equal_nan=True)
    assert np.array_equal(numbers(FRAME["d"]), [1, np.nan, -0.5], equal_nan=True)
    assert numbers(FRAME["d"].astype("datetime64[ms]"))[0] == 1
    assert numbers(FRAME["d"].dt.tz_localize("UTC"))[0] == 1
    assert texts(FRAME["t"]).tolist() == ["a", None, "c"]
    assert NumberColumns().fit_transform(FRAME[["b", "i"]]).tolist() == [[1, 1], [0, 2], [1, 3]]


def test_rows_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ArrayFeatures(two).fit(FRAME).transform(FRAME)
    monkeypatch.setattr(module, "ROWS", 2)
    assert np.array_equal(ArrayFeatures(two).fit(FRAME).transform(FRAME), whole, equal_nan=True)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda c: {"x": c["t"]}, "is text"),
        (lambda c: {"x": c["n"].sum() + np.zeros(7)}, "expected one value for each"),
        (lambda c: {}, "returned no features"),
        (lambda c: {"x": c["none"]}, "none"),
    ],
)
def test_a_function_that_cannot_be_is_refused(function: Any, problem: str) -> None:
    with pytest.raises((TypeError, ValueError, KeyError), match=problem):
        ArrayFeatures(function).fit(FRAME)


def test_a_function_that_needs_names_refuses_an_array() -> None:
    with pytest.raises(TypeError, match="needs a DataFrame"):
        ArrayFeatures(two).fit(FRAME[["n", "i"]].to_numpy())


# ── the trace ─────────────────────────────────────────────────────────────────────────────────────

a_number = st.floats(allow_subnormal=True, width=64)
UNARY = [n for n, f in FUNCTIONS.items() if f.arity == 1 and n != "float"]
BINARY = [n for n, f in FUNCTIONS.items() if f.arity == 2]

EXACT = {
    *("add", "subtract", "multiply", "divide", "negative", "positive", "absolute", "sqrt"),
    *("square", "reciprocal", "maximum", "minimum", "fmax", "fmin", "floor", "ceil", "trunc"),
    *("rint", "sign", "where", "greater", "greater_equal", "less", "less_equal", "equal"),
    *("not_equal", "logical_and", "logical_or", "logical_xor", "logical_not", "isnan"),
    *("isfinite", "isinf", "copysign"),
}
TRANSCENDENTAL = {*UNARY, *BINARY} - EXACT


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    """Random steps over three columns and two constants."""
    steps: list[tuple[str, list[int]]] = []
    for _ in range(draw(st.integers(1, 12))):
        arity = draw(st.sampled_from([1, 2, 2, 3]))
        name = "where" if arity == 3 else draw(st.sampled_from(UNARY if arity == 1 else BINARY))
        places = st.integers(0, 4 + len(steps))
        steps.append((name, [draw(places) for _ in range(arity)]))
    return steps


@settings(max_examples=300, deadline=None)
@given(
    steps=programs(),
    constants=st.tuples(a_number, st.integers(-3, 3)),
    rows=st.lists(st.tuples(a_number, a_number, a_number), min_size=2, max_size=9),
)
def test_a_traced_program_computes_what_numpy_computes(
    steps: Any, constants: Any, rows: Any
) -> None:
    def program(columns: Any) -> Any:
        values = [columns["a"], columns["b"], columns["c"], *constants]
        for name, operands in steps:
            function = np.where if name == "where" else getattr(np, name)
            values.append(function(*[values[i] for i in operands]))
        return {f"f{i}": v for i, v in enumerate([*values[:1], *values[5:]])}

    arrays = dict(zip("abc", np.array(rows).T.copy(), strict=True))
    try:
        traced = trace(program, list("abc"), set())
    except CompileRefused:
        return  # such as the exponential of a truth value: never silently different
    with np.errstate(all="ignore"):
        expected = np.column_stack(
            [np.broadcast_to(v, len(rows)).astype(float) for v in program(arrays).values()]
        )
        formula = Formula(len(traced.inputs), traced.constants, traced.steps, traced.outputs)
        columns = [arrays[name] for name in traced.inputs]
        batch = formula.batch(columns, len(rows))
        single = np.concatenate(
            [formula.row([float(c[i]) for c in columns]) for i in range(len(rows))]
        )
    assert np.array_equal(batch, expected, equal_nan=True)
    # of these numpy itself gives another last digit for many numbers than for one
    if not {name for name, _ in steps} & TRANSCENDENTAL:
        assert np.array_equal(single, expected, equal_nan=True)


@pytest.mark.parametrize("name", ["floor_divide", "remainder", "power"])
def test_whole_numbers_are_not_taken_for_floats(name: str) -> None:
    """0 // 0 of whole numbers is 0 in numpy, of floats it is NaN."""
    with pytest.raises(CompileRefused, match="whole numbers"):
        trace(lambda c: {"f": getattr(np, name)(0 + (c["a"] > 0), 0 + (c["a"] > 1))}, ["a"], set())


def ordinary(c: Any) -> Any:
    a, b = c["a"], c["b"]
    return {
        "clip": np.clip(a, 0, 1),
        "method": a.clip(0),
        "nan": np.nan_to_num(a / b, nan=-1.0),
        "select": np.select([a > b, a == b], [a, 2.0], default=b),
        "square": a**2 + b**0.5 + 2**b,
        "count": sum([a > 0, b > 0, (a > 1) & ~(b > 1)]),
        "either": (a > 0) + (b > 0),
        "cast": (a > 0).astype(float) * 3,
        "worst": reduce(np.maximum, [a, b, 0.0]),
        "constant": 1.0,
        "like": np.zeros_like(a) + np.full_like(b, 2.0),
        "mean": (a + b) / 2,
        "mod": a % 3 - a // 2,
        "same": a,
    }


def test_ordinary_numpy_is_understood() -> None:
    rng = np.random.default_rng(0)
    arrays = {n: np.append(rng.normal(size=50), [np.nan, 0, -0.0, 1e300]) for n in "ab"}
    frame = pd.DataFrame(arrays)
    expected = ArrayFeatures(ordinary).fit(frame).transform(frame)
    traced = trace(ordinary, ["a", "b"], set())
    formula = Formula(2, traced.constants, traced.steps, traced.outputs)
    with np.errstate(all="ignore"):
        given_ = formula.batch([arrays[n] for n in traced.inputs], len(frame))
    assert np.array_equal(given_, expected, equal_nan=True)


def test_repeated_work_is_done_once() -> None:
    traced = trace(lambda c: {"x": c["a"] / c["b"], "y": c["a"] / c["b"]}, ["a", "b"], set())
    assert len(traced.steps) == 1


KEPT: list[Any] = []


def keeps(c: Any) -> Any:
    KEPT.append(c["a"])
    return {"x": KEPT[0] + c["a"]}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda c: {"x": 1.0 if c["a"] > 0 else 2.0}, "branches"),
        (lambda c: {"x": max(c["a"], c["b"])}, "branches"),
        (lambda c: {"x": c["a"] - np.mean(c["a"])}, "np.mean"),
        (lambda c: {"x": c["a"] - c["a"].mean()}, ".mean"),
        (lambda c: {"x": np.add.reduce(c["a"])}, "mixes rows"),
        (lambda c: {"x": np.cumsum(c["a"])}, "cumsum"),
        (lambda c: {"x": c["a"][::-1]}, "picks rows"),
        (lambda c: {"x": np.sort(c["a"])}, "sort"),
        (lambda c: {"x": c["a"] / len(c["a"])}, "number of rows"),
        (lambda c: {"x": list(c["a"])}, "loops"),
        (lambda c: {"x": float(c["a"])}, "single number"),
        (lambda c: {"x": np.asarray(c["a"])}, "plain array"),
        (lambda c: {"x": c["a"] + np.arange(3)}, "array of its own"),
        (lambda c: {"x": np.add(c["a"], 1, where=c["a"] > 0)}, "with where"),
        (lambda c: {"x": np.exp(c["a"] > 0)}, "truth values"),
        (lambda c: {"x": np.spacing(c["a"])}, "spacing"),
        (lambda c: {"x": c["a"].astype("int32")}, "astype"),
        (lambda c: {"x": c["text"]}, "text column"),
        (lambda c: {"x": c["none"]}, "cannot be traced"),
        (lambda c: {"x": c["a"] + "1"}, "str as a number"),
    ],
)
def test_what_is_not_elementwise_is_refused_with_its_reason(function: Any, reason: str) -> None:
    with pytest.raises(CompileRefused, match=reason):
        trace(function, ["a", "b", "text"], {"text"})


def test_an_array_kept_between_calls_is_refused() -> None:
    KEPT.clear()
    trace(keeps, ["a"], set())
    with pytest.raises(CompileRefused, match="keeps arrays"):
        trace(keeps, ["a"], set())
