"""All failures, counted, with rows and lines; nothing coerced away; broken schemas named."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trilho.config import Data
from trilho.config import load as load_pipeline
from trilho.dataset import read
from trilho.errors import UsageError
from trilho.schema import Failure, Validation, error_of, load, sensitive, validate
from trilho.schema.findings import schema_findings

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def judge(
    folder: Path, csv: str, columns: str, *, name: str = "s.yaml", top: str = "", **keys: Any
) -> Validation:
    """Validate a CSV whose last column is the target `y`."""
    (folder / "d.csv").write_text(csv, encoding="utf-8")
    text = columns
    if name.endswith("yaml"):
        body = "".join(f"  {line}\n" for line in columns.splitlines())
        text = f"{top}columns:\n{body}  y: {{dtype: int64}}\n"
    (folder / name).write_text(text, encoding="utf-8")
    data = Data.model_validate(
        {
            "path": str(folder / "d.csv"),
            "schema": str(folder / name),
            "target": "y",
            "checks": {"min_rows": 1},
        }
        | keys
    )
    return validate(read(data), data, now=NOW)


def only(validation: Validation) -> Failure:
    assert len(validation.failures) == 1, validation.failures
    return validation.failures[0]


# The shipped schema


def test_the_shipped_data_holds_the_shipped_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    data = load_pipeline().data
    dataset = read(data)
    assert validate(dataset, data).failures == []
    schema = load(data.schema_)
    assert list(schema.columns) == list(dataset.frame.columns)
    assert all(c.checks and c.title and c.description for c in schema.columns.values())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ID", 1),
        ("LIMIT_BAL", 0.0),
        ("SEX", 3),
        ("EDUCATION", 7),
        ("MARRIAGE", 4),
        ("AGE", 17),
        ("AGE", 101),
        ("PAY_0", -3),
        ("PAY_6", 9),
        ("BILL_AMT1", -2e6),
        ("BILL_AMT6", 1e7),
        ("PAY_AMT3", -1.0),
        ("default_next_month", 2),
    ],
)
def test_the_shipped_schema_bites(column: str, value: float) -> None:
    frame = pd.read_csv(ROOT / "data/credit_default.csv", nrows=200)
    schema = load(str(ROOT / "data_schemas/credit_default.yaml"))
    assert schema_findings(schema, frame) == []
    frame.loc[100, column] = value
    (found,) = schema_findings(schema, frame)
    assert found.column == column
    assert found.rows.tolist() == [100]


# Failures


def test_every_failure_is_found_counted_and_placed(tmp_path: Path) -> None:
    csv = (
        "a,b,c,new,y\n"
        '1,"x\ny",5,0,0\n'  # lines 2 and 3
        "9,q,,0,1\n"
        "8,q,oops,0,1\n"
        "1,r,7,0,1\n"
    )
    columns = (
        "a: {dtype: int64, unique: true, in_range: {min_value: 0, max_value: 5}}\n"
        "b: {dtype: str, isin: ['x\\ny', r]}\n"
        "c: {dtype: int64}\n"
        "gone: {dtype: int64}"
    )
    columns = columns.replace("'x\\ny'", '"x\\ny"')
    result = judge(tmp_path, csv, columns, checks={"min_rows": 10})
    found = {(f.column, f.check): f for f in result.failures}
    assert {key: f.count for key, f in found.items()} == {
        ("new", "known column"): 1,
        ("gone", "column present"): 1,
        ("a", "in_range(0, 5)"): 2,
        ("a", "unique"): 1,
        ("b", "isin(['x\\ny', 'r'])"): 2,
        ("c", "not missing"): 1,
        ("c", "dtype int64"): 1,
        (None, "min_rows"): 1,
    }
    outside = found["a", "in_range(0, 5)"]
    assert [(e.line, e.value) for e in outside.examples] == [(4, "9"), (5, "8")]
    assert outside.line == 4
    assert outside.file == str(tmp_path / "d.csv")
    assert [(e.line, e.value) for e in found["c", "dtype int64"].examples] == [(5, "oops")]
    assert [e.line for e in found["a", "unique"].examples] == [6]
    assert not result.ok
    assert msgspec.json.decode(msgspec.json.encode(result), type=Validation) == result
    error = error_of(result)
    assert error.exit_code == 3
    assert {p.line for p in error.places} == {4, 5, 6}
    assert f"{tmp_path / 'd.csv'}:4: a: fails in_range(0, 5) (2 rows)" in error.message


def test_examples_carry_the_row_id(tmp_path: Path) -> None:
    csv = "i,a,y\nA1,0,0\nB2,5,1\n"
    failure = only(judge(tmp_path, csv, "i: {dtype: str}\na: {isin: [0, 1]}", id="i"))
    assert [(e.row, e.line, e.value) for e in failure.examples] == [("B2", 3, "5")]


def test_names_of_columns_are_matched_with_the_nearest(tmp_path: Path) -> None:
    result = judge(tmp_path, "amuont,y\n1,0\n2,1\n", "amount: {dtype: int64}")
    messages = {f.check: f.message for f in result.failures}
    assert "did you mean 'amuont'?" in messages["column present"]
    assert "did you mean 'amount'?" in messages["known column"]


def test_strict_unless_told_otherwise(tmp_path: Path) -> None:
    csv = "a,b,y\n1,2,0\n2,3,1\n"
    assert only(judge(tmp_path, csv, "a: {dtype: int64}")).column == "b"
    assert judge(tmp_path, csv, "a: {dtype: int64}", top="strict: false\n").ok
    python = "import pandera.pandas as pa\nschema = pa.DataFrameSchema({'a': pa.Column(int)%s})\n"
    named = python % ", 'y': pa.Column(int)"
    assert only(judge(tmp_path, csv, named, name="s.py")).column == "b"
    told = named.replace("})", "}, strict=False)")
    assert judge(tmp_path, csv, told, name="t.py").ok


@pytest.mark.parametrize(
    ("values", "column", "bad"),
    [
        (["1.0", "2.5", "3"], "{dtype: int64, coerce: true}", ["2.5"]),
        (["1.0", "2.0", "3"], "{dtype: int64, coerce: true}", []),
        (["1.0", "", "3"], "{dtype: Int64, coerce: true, nullable: true}", []),
        (["1.5", "", "3"], "{dtype: Int64, coerce: true, nullable: true}", ["1.5"]),
        (["300", "2", "3"], "{dtype: int8, coerce: true}", ["300"]),
        (["-1", "2", "3"], "{dtype: uint8, coerce: true}", ["-1"]),
        (["1", "2", "x"], "{dtype: float64, coerce: true}", ["x"]),
        (["1", "2", "3"], "{dtype: float64, coerce: true}", []),
        (["1e300", "2", "3"], "{dtype: float32, coerce: true}", ["1e+300"]),
        (["yes", "no", "no"], "{dtype: bool, coerce: true}", ["yes", "no", "no"]),
        (["1", "0", "2"], "{dtype: bool, coerce: true}", ["2"]),
        (["1", "0", "1"], "{dtype: bool, coerce: true}", []),
        (["20260131", "2", "3"], "{dtype: 'datetime64[ns]', coerce: true}", ["20260131", "2", "3"]),
        (
            ["2026-01-31", "soon", ""],
            "{dtype: 'datetime64[ns]', coerce: true, nullable: true}",
            ["soon"],
        ),
        (["1", "2", "3"], "{dtype: str, coerce: true}", []),
        (["9007199254740993", "2", "3"], "{dtype: int64, coerce: true}", []),
        (
            ["9223372036854775807", "2", "3"],
            "{dtype: int32, coerce: true}",
            ["9223372036854775807"],
        ),
        # without coercion the values that do not fit are shown as well
        (["1", "2", "x"], "{dtype: int64}", ["x"]),
        (["2026-01-31", "soon", "later"], "{dtype: 'datetime64[us]'}", ["soon", "later"]),
    ],
)
def test_coercion_hides_no_value(
    tmp_path: Path, values: list[str], column: str, bad: list[str]
) -> None:
    csv = "a,y\n" + "".join(f"{v},{i % 2}\n" for i, v in enumerate(values))
    result = judge(tmp_path, csv, f"a: {column}")
    assert [e.value for f in result.failures for e in f.examples] == bad
    assert result.ok == (not bad)


def test_checks_run_on_the_coerced_values(tmp_path: Path) -> None:
    failure = only(
        judge(tmp_path, "a,y\n1.0,0\n9.0,1\n", "a: {dtype: int64, coerce: true, isin: [1]}")
    )
    assert [e.value for e in failure.examples] == ["9"]


def test_a_gap_in_whole_numbers_is_explained(tmp_path: Path) -> None:
    csv = "a,y\n1,0\n,1\n"
    assert only(judge(tmp_path, csv, "a: {dtype: int64}")).check == "not missing"
    failure = only(judge(tmp_path, csv, "a: {dtype: int64, nullable: true}"))
    assert "use dtype: Int64 with coerce: true" in failure.message


def test_sensitive_columns_are_marked_in_yaml_or_python(tmp_path: Path) -> None:
    yaml = tmp_path / "s.yaml"
    table = "columns:\n  a: {dtype: int64}\n  b: {dtype: int64}\nmetadata:\n  sensitive: "
    yaml.write_text(table + "[b]\n")
    assert sensitive(load(str(yaml)), "s.yaml") == ["b"]
    for text, told in (("[c]\n", "names 'c', which is no column"), ("b\n", "must be a list")):
        yaml.write_text(table + text)
        with pytest.raises(UsageError, match=told):
            sensitive(load(str(yaml)), "s.yaml")
    python = tmp_path / "s.py"
    python.write_text(
        "import pandera.pandas as pa\n"
        "mark = {'sensitive': True}\n"
        "schema = pa.DataFrameSchema({'a': pa.Column(int, metadata=mark), 'b': pa.Column(int)})\n"
    )
    assert sensitive(load(str(python)), "s.py") == ["a"]


def test_python_schemas_with_all_kinds_of_checks(tmp_path: Path) -> None:
    source = """
import pandera.pandas as pa

class Clients(pa.DataFrameModel):
    a: int = pa.Field(ge=0)
    b: int
    y: int

    @pa.check("b", element_wise=True, error="b is even")
    def even(cls, value: int) -> bool:
        return value % 2 == 0

    @pa.check("a", error="a is not all the same")
    def varied(cls, values):
        return values.nunique() > 1

    @pa.dataframe_check(error="a is below b")
    def ordered(cls, frame):
        return frame["a"] < frame["b"]

    @pa.dataframe_check(error="crash")
    def crash(cls, frame):
        return frame["nothing"] > 0
"""
    result = judge(tmp_path, "a,b,y\n5,2,0\n5,7,1\n", source, name="s.py")
    found = {f.check: (f.column, f.count, [e.line for e in f.examples]) for f in result.failures}
    assert found == {
        "b is even": ("b", 1, [3]),
        "a is not all the same": ("a", 1, []),
        "a is below b": (None, 1, [2]),
        "crash": (None, 1, []),
    }
    crash = next(f for f in result.failures if f.check == "crash")
    assert "KeyError" in crash.message


def test_joint_uniqueness_order_and_patterns(tmp_path: Path) -> None:
    csv = "b,a1,a2,y\n1,1,1,0\n1,1,9,1\n"
    columns = "'a\\d': {dtype: int64, regex: true, le: 5}\nb: {dtype: int64}"
    result = judge(tmp_path, csv, columns, top="unique: [b, a1]\n")
    assert {(f.column, f.check, f.count) for f in result.failures} == {
        (None, "unique(b, a1)", 1),
        ("a2", "less_than_or_equal_to(5)", 1),
    }
    ordered = judge(tmp_path, "b,a,y\n1,1,0\n2,2,1\n", "a: {}\nb: {}", top="ordered: true\n")
    assert only(ordered).check == "column order"


def test_pandera_cannot_be_switched_off(tmp_path: Path) -> None:
    with pa.config.config_context(validation_enabled=False):
        assert not judge(tmp_path, "a,y\n9,0\n1,1\n", "a: {isin: [1]}").ok


@given(
    values=st.lists(st.one_of(st.none(), st.integers(-5, 15)), min_size=2, max_size=40),
    low=st.integers(-5, 5),
    nullable=st.booleans(),
    unique=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_verdict_and_counts_are_those_of_pandera(
    values: list[int | None], low: int, nullable: bool, unique: bool
) -> None:
    frame = pd.DataFrame({"a": pd.Series(values, dtype="float64")})
    checks = [pa.Check.ge(low), pa.Check.isin(list(range(-5, 10)))]
    schema = pa.DataFrameSchema({"a": pa.Column(float, checks, nullable=nullable, unique=unique)})
    found = {f.check: f.count for f in schema_findings(schema, frame)}
    try:
        schema.validate(frame, lazy=True)
        expected = {}
    except pa.errors.SchemaErrors as error:
        expected = error.failure_cases["check"].value_counts().to_dict()
        # missing values that repeat are refused, but not listed
        expected |= {"field_uniqueness": 0} if "unique" in found else {}
    names = {"not missing": "not_nullable", "unique": "field_uniqueness"}
    assert {names.get(k, k) for k in found} == set(expected)
    for check, count in found.items():
        if check != "unique":  # pandera counts the first of a repetition, too
            assert expected[names.get(check, check)] == count


def test_all_bad_data_costs_little_memory() -> None:
    rows = 200_000
    frame = pd.DataFrame({f"c{i}": np.full(rows, 9.0) for i in range(12)})
    schema = pa.DataFrameSchema({name: pa.Column(float, pa.Check.le(1)) for name in frame})
    tracemalloc.start()
    found = schema_findings(schema, frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [f.count for f in found] == [rows] * 12
    assert peak < 2.5 * frame.memory_usage().sum()


# Broken schemas


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("columns: [", ["s.yaml:", "not valid YAML"]),
        ("columns:\n  a: {dtype: int64}\n  a: {dtype: str}", ["s.yaml:3", "repeats the key 'a'"]),
        ("columns:\n  a: {ge: 2026-99-99}", ["not valid YAML"]),
        ("", ["must hold 'columns'"]),
        ("- a", ["must hold 'columns'"]),
        ("columns: [{name: a}]", ["must hold 'columns'"]),
        ("columns:\n  a:\n", ["s.yaml:2", "columns.a must hold keys"]),
        ("columns:\n  7: {dtype: int64}\n", ["s.yaml:2", "quote it"]),
        ("columns:\n  a: {}\ncolums: {}\n", ["s.yaml:3", "colums", "did you mean 'columns'?"]),
        (
            "columns:\n  a:\n    dtype: int64\n    nulable: true\n",
            ["s.yaml:4", "columns.a.nulable", "did you mean 'nullable'?"],
        ),
        ("columns:\n  a:\n    in_rnge: 3\n", ["s.yaml:3", "did you mean 'in_range'?"]),
        (
            "columns:\n  a:\n    checks: {is_in: [1]}\n",
            ["s.yaml:3", "columns.a.checks.is_in", "isin"],
        ),
        (
            "columns:\n  a:\n    checks:\n    - options: {check_name: bogus}\n",
            ["columns.a.checks.bogus"],
        ),
        ("columns:\n  a: {dtype: integerish}\n", ["s.yaml:2", "columns.a", "integerish"]),
        ("columns:\n  a: {str_matches: '['}\n", ["s.yaml:2", "pandera cannot use this"]),
        ("columns:\n  a: {in_range: {lowest: 1}}\n", ["s.yaml:2", "pandera cannot use this"]),
        ("drop_invalid_rows: true\ncolumns:\n  a: {}\n", ["drop_invalid_rows changes data"]),
        ("strict: filter\ncolumns:\n  a: {}\n", ["strict: filter changes data"]),
        ("columns:\n  a: {default: 3}\n", ["columns.a.default changes data"]),
    ],
)
def test_broken_yaml_schemas_are_named(tmp_path: Path, text: str, says: list[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(str(path))
    for part in says:
        assert part in caught.value.message, caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schema = 3", ["must define 'schema'"]),
        ("x = 1\ndef f(:\n", ["s.py:2", "SyntaxError"]),
        ("import pandera.pandas as pa\n\nschema = pa.Nothing()", ["s.py:3", "AttributeError"]),
        (
            "import pandera.pandas as pa\nschema = pa.DataFrameSchema({}, parsers=pa.Parser(abs))",
            ["parsers changes data"],
        ),
    ],
)
def test_broken_python_schemas_are_named(tmp_path: Path, text: str, says: list[str]) -> None:
    path = tmp_path / "s.py"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(str(path))
    for part in says:
        assert part in caught.value.message, caught.value.message


@pytest.mark.parametrize("name", ["gone.yaml", "s.json"])
def test_missing_and_foreign_schema_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(UsageError, match=name):
        load(str(tmp_path / name))


# The dataset as a whole


@pytest.mark.parametrize(
    ("checks", "column", "check", "says"),
    [
        ({"min_rows": 5}, None, "min_rows", "4 rows, expected at least 5"),
        ({"class_share": [0.3, 0.7]}, "y", "class_share of 0", "25.00%"),
        ({"unique": ["b"]}, "b", "unique", "repeat"),
        ({"max_missing": 0.2}, "a", "max_missing", "25.0% of the values are missing"),
        (
            {"freshness": {"column": "d", "max_age_days": 10}},
            "d",
            "freshness",
            "2026-02-01T00:00:00, 28.0 days ago",
        ),
    ],
)
def test_checks_of_the_whole(
    tmp_path: Path, checks: dict[str, Any], column: str | None, check: str, says: str
) -> None:
    csv = "a,b,d,y\n1,7,2026-01-01,0\n,8,2026-02-01,1\n3,8,2025-01-01,1\n4,9,2025-01-01,1\n"
    columns = "a: {nullable: true}\nb: {}\nd: {}"
    assert judge(tmp_path, csv, columns, checks={"min_rows": 4}).ok
    result = judge(tmp_path, csv, columns, checks={"min_rows": 4} | checks)
    failure = next(f for f in result.failures if f.check == check)
    assert failure.column == column
    assert says in failure.message
    if check in ("unique", "freshness"):
        assert failure.line == {"unique": 4, "freshness": 3}[check]


def test_repeated_ids_are_reported_once(tmp_path: Path) -> None:
    csv = "i,a,y\n7,1,0\n8,1,1\n7,1,1\n"
    failure = only(judge(tmp_path, csv, "i: {dtype: int64, unique: true}\na: {}", id="i"))
    assert (failure.column, failure.check, failure.count, failure.line) == ("i", "unique", 1, 4)
    assert only(judge(tmp_path, csv, "i: {dtype: int64}\na: {}", id="i")).check == "unique"


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ({"unique": ["aa"]}, "data.checks.unique: .*did you mean 'a'"),
        ({"freshness": {"column": "b", "max_age_days": 1}}, "has no column 'b'"),
        ({"freshness": {"column": "a", "max_age_days": 1}}, "holds no dates"),
    ],
)
def test_checks_that_name_wrong_columns(tmp_path: Path, checks: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        judge(tmp_path, "a,y\n1,0\n2,1\n", "a: {}", checks=checks)
