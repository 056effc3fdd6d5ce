"""`trilho init`: what it writes is valid, fits the data it was drafted from, and later data."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from trilho import config
from trilho.config import Pipeline
from trilho.dataset import read
from trilho.errors import DataError, UsageError
from trilho.init import init
from trilho.schema import load, validate


def drafted(folder: Path, frame: pd.DataFrame, target: str = "y", name: str = "d.csv") -> Pipeline:
    """Write the frame, run init on it, and check all that must hold of the result."""
    frame.to_csv(folder / name, index=False)
    written = init(folder / name, target, folder)
    assert all(path.is_file() for path in written)
    tree = YAML(typ="safe").load(folder / "pipeline.yaml")
    jsonschema.validate(tree, json.loads((folder / "pipeline.schema.json").read_text()))
    pipeline = config.load(folder / "pipeline.yaml")
    data = pipeline.data.model_copy(
        update={"path": str(folder / name), "schema_": str(folder / pipeline.data.schema_)}
    )
    dataset = read(data)
    assert validate(dataset, data).failures == []
    assert dataset.target == target
    return pipeline


def clients(rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "client id": [f"C{n:04d}" for n in range(rows)],
            "row": range(rows),
            "since": pd.date_range("2024-01-01", periods=rows).strftime("%Y-%m-%d"),
            "seen": pd.date_range("2024-01-01", periods=rows, freq="h", tz="UTC"),
            "constant": 1,
            "empty": None,
            "mostly": [1.5, 2.5] + [None] * (rows - 2),
            "note": [f"wrote on day {n}" for n in range(rows)],
            "shop_id": random.integers(0, 120, rows),
            "limit": random.uniform(0, 900, rows),
            "balance": random.normal(0, 50, rows),
            "married": random.choice(["yes", "no"], rows),
            "active": random.random(rows) < 0.5,
            "consent": np.where(random.random(rows) < 0.2, None, random.random(rows) < 0.5),
            "zip": [f"{n % 90:05d}" for n in range(rows)],
            "city": random.choice(["Rio", "São Paulo", None], rows),
            "visits": np.where(random.random(rows) < 0.1, np.nan, random.integers(0, 9, rows)),
            "y": random.choice(["bad", "good"], rows),
        }
    )


def test_every_column_finds_its_place(tmp_path: Path) -> None:
    pipeline = drafted(tmp_path, clients())
    data = pipeline.data
    assert data.id == "client id"
    assert set(data.drop) == {"row", "constant", "empty", "mostly", "note", "shop_id"}
    assert (data.task, data.positive, data.path) == ("binary", "good", "d.csv")
    assert pipeline.name == "d"
    assert pipeline.model.estimator == "sklearn.ensemble.HistGradientBoostingClassifier"
    text = (tmp_path / "pipeline.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=pipeline.schema.json\n")
    assert "- mostly # 99% of the values are missing" in text
    assert ".trilho/" in (tmp_path / ".gitignore").read_text().splitlines()
    columns = yaml.safe_load((tmp_path / "data_schemas/d.yaml").read_text())["columns"]
    assert columns["client id"] == {"dtype": "str", "unique": True}
    assert columns["since"]["dtype"] == "datetime64[us]"
    assert columns["city"] == {"dtype": "str", "isin": ["Rio", "São Paulo"], "nullable": True}
    assert columns["married"]["isin"] == ["no", "yes"]
    assert columns["zip"] == {"dtype": "str"}
    assert columns["limit"]["in_range"] == {"min_value": 0, "max_value": 10000}
    assert (
        columns["balance"]["in_range"]["min_value"] == -columns["balance"]["in_range"]["max_value"]
    )
    assert columns["y"]["isin"] == ["bad", "good"]


def test_later_data_of_the_same_kind_still_holds(tmp_path: Path) -> None:
    frame = clients()
    pipeline = drafted(tmp_path, frame)
    later = pd.concat([frame, frame.tail(200)], ignore_index=True)
    new = slice(len(frame), None)
    later.loc[new, "client id"] = [f"D{n:04d}" for n in range(200)]
    later.loc[new, "row"] = range(50_000, 50_200)
    later.loc[new, "since"] = "2031-05-05"
    later.loc[new, "limit"] = 4_000.0
    later.loc[new, "balance"] = -900.0
    later.loc[new, "note"] = "something else"
    later.loc[new, "zip"] = "99999"
    later["visits"] = later["visits"].fillna(12)
    later.to_csv(tmp_path / "d.csv", index=False)
    data = pipeline.data.model_copy(
        update={"path": str(tmp_path / "d.csv"), "schema_": str(tmp_path / "data_schemas/d.yaml")}
    )
    assert validate(read(data), data).failures == []
    later.loc[5, ["limit", "city"]] = [-1.0, "Atlantis"]
    later.to_csv(tmp_path / "d.csv", index=False)
    failures = validate(read(data), data).failures
    assert {(f.column, f.line) for f in failures} == {("limit", 7), ("city", 7)}


@pytest.mark.parametrize(
    ("target", "task", "estimator"),
    [
        (["a", "b", "c"], "multiclass", "HistGradientBoostingClassifier"),
        ([0.1, 0.2, 7.5], "regression", "HistGradientBoostingRegressor"),
        ([0, 1, 1], "binary", "HistGradientBoostingClassifier"),
        ([True, False, True], "binary", "HistGradientBoostingClassifier"),
        ([1.0, 2.0, 2.0], "binary", "HistGradientBoostingClassifier"),
    ],
)
def test_the_estimator_fits_the_task(
    tmp_path: Path, target: list[Any], task: str, estimator: str
) -> None:
    frame = pd.DataFrame({"a": [0.5, 1.5, 2.5] * 20, "y": target * 20})
    pipeline = drafted(tmp_path, frame)
    assert pipeline.data.task == task
    assert pipeline.data.id is None
    assert pipeline.model.estimator == f"sklearn.ensemble.{estimator}"


ODD = "  :#'\"{}[],&*!|>%@`-?=~\\/éß漢😀\u2028\u00a0\t" + string.ascii_letters + string.digits
WORDS = (
    "yes no null ~ true on y n 1 1e3 0o17 0x1F 1_000 _ 2026-01-31 10:30:00 = << {a} id #a &a *a "
    "customerId columns a\\nb \" ' é NaN .inf ? N"
)
NAMES = st.one_of(
    st.sampled_from([*WORDS.split(" "), "- a", "a: b", "a #b", "a" * 200]),
    st.text(ODD, min_size=1, max_size=12),
).filter(lambda name: name.strip() and name != "target")


@st.composite
def columns(draw: st.DrawFn, rows: int) -> list[Any]:
    gap = draw(st.sampled_from([0, 0, 0.2, 0.9, 1]))
    values = draw(
        st.sampled_from(
            [
                st.integers(-(2**63), 2**63 - 1),
                st.integers(0, 3),
                st.just(7),
                st.floats(allow_nan=False, allow_infinity=False),
                st.sampled_from([0.0, -0.0, 1.0]),
                st.booleans(),
                st.sampled_from(["yes", "no"]),
                st.sampled_from(["true", "1", "0"]),
                st.sampled_from(["00", "01", "10"]),
                st.sampled_from(["10:30", "09:00:01"]),
                st.dates().map(str),
                st.datetimes(timezones=st.just(None)).map(str),
                st.sampled_from(["2026-01-31T10:00:00Z", "2026-01-31T10:00:00+02:00"]),
                st.text(ODD + "\n", max_size=8),
                st.sampled_from(["1.5", "abc", "2"]),
                st.just(str(10**25)),
            ]
        )
    )
    drawn = draw(st.lists(values, min_size=rows, max_size=rows))
    missing = draw(st.lists(st.floats(0, 1), min_size=rows, max_size=rows))
    if draw(st.booleans()) and gap == 0:
        drawn = [f"K{n}" for n in range(rows)]
    return [None if m < gap else value for value, m in zip(drawn, missing, strict=True)]


@given(data=st.data())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_table_gets_a_schema_that_it_holds(data: st.DataObject) -> None:
    rows = data.draw(st.integers(4, 30))
    names = data.draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    frame = pd.DataFrame(
        {name: pd.Series(data.draw(columns(rows)), dtype="object") for name in names}
    )
    kind = data.draw(st.sampled_from([[0, 1], ["no", "yes"], [0.25, 1.5, 3.75], [True, False]]))
    frame["target"] = [kind[n % len(kind)] for n in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            pipeline = drafted(Path(folder), frame, "target", data.draw(st.sampled_from(FILES)))
        except UsageError as error:
            assert "${" in str(error)  # noqa: PT017 - the one name that cannot be written
            return
        schema = load(str(Path(folder) / pipeline.data.schema_))
        assert list(schema.columns) == list(frame.columns)


FILES = ["d.csv", "my data (1).csv", "Ünïcode.csv", "no.2.csv"]


def test_parquet_and_other_folders(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    clients().to_parquet(tmp_path / "in/My_Data.parquet")
    init(tmp_path / "in/My_Data.parquet", "y", tmp_path / "out")
    pipeline = config.load(tmp_path / "out/pipeline.yaml")
    assert pipeline.data.path == str(tmp_path / "in/My_Data.parquet")
    assert pipeline.data.schema_ == "data_schemas/My_Data.yaml"
    assert pipeline.name == "my-data"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    clients().to_csv(tmp_path / "d.csv", index=False)
    (tmp_path / ".gitignore").write_text("*.log\n")
    init(tmp_path / "d.csv", "y", tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*.log\n.trilho/\n"
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(
        UsageError, match=r"pipeline.yaml, pipeline.schema.json, data_schemas/d.yaml"
    ):
        init(tmp_path / "d.csv", "y", tmp_path)
    (tmp_path / "pipeline.yaml").unlink()
    with pytest.raises(UsageError, match="are there already; nothing was written"):
        init(tmp_path / "d.csv", "y", tmp_path)
    del before[tmp_path / "pipeline.yaml"]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_bad_data_writes_nothing(tmp_path: Path) -> None:
    clients().to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(DataError, match="no column 'z'"):
        init(tmp_path / "d.csv", "z", tmp_path)
    clients().rename(columns={"empty": "${HOME}"}).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(UsageError, match="rename it"):
        init(tmp_path / "d.csv", "y", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["d.csv"]
