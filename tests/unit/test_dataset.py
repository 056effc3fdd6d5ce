"""Nothing is silently changed, every bad file is named by place, the hold-out is frozen."""

from __future__ import annotations

import gzip
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import moto
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trilho.bundle import sha256_bytes
from trilho.config import Data, Split
from trilho.dataset import Dataset, csv_lines, digest, holdout, local, read, summarise
from trilho.dataset import table as table_module
from trilho.errors import DataError, TrilhoError, UnavailableError, UsageError

ROOT = Path(__file__).parents[2]


def data(path: Path | str, **keys: Any) -> Data:
    return Data.model_validate({"path": str(path), "schema": "s.yaml", "target": "y"} | keys)


def write(folder: Path, text: str | bytes, name: str = "d.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def failure(path: Path | str, **keys: Any) -> TrilhoError:
    with pytest.raises(TrilhoError) as caught:
        read(data(path, **keys))
    return caught.value


def one_column(folder: Path, *values: str, name: str = "d.csv") -> pd.Series:
    rows = "".join(f"{value},{i % 2}\n" for i, value in enumerate(values))
    return read(data(write(folder, f"a,y\n{rows}", name))).frame["a"]


# What is read


def test_the_example_reads_like_pandas_reads_it() -> None:
    path = ROOT / "data/credit_default.csv"
    dataset = read(data(path, target="default_next_month", id="ID"))
    pd.testing.assert_frame_equal(dataset.frame, pd.read_csv(path))
    assert dataset.task == "binary"
    assert dataset.classes == [0, 1]
    assert dataset.positive == 1
    assert dataset.ids[:2].tolist() == ["1", "2"]
    assert "ID" not in dataset.features
    assert dataset.digest == sha256_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("values", "dtype", "read_as"),
    [
        (("1", "2"), "int64", [1, 2]),
        (("-0.0", "2"), "float64", [0.0, 2.0]),
        (("1", "", "3"), "float64", [1.0, None, 3.0]),
        (("True", "FALSE"), "bool", [True, False]),
        (("true", "NA"), "boolean", [True, None]),
        (("007", "10"), "str", ["007", "10"]),
        (('"007"', "10"), "str", ["007", "10"]),
        (("00", "", "1.5"), "str", ["00", None, "1.5"]),
        (("0", "0.5", "10"), "float64", [0.0, 0.5, 10.0]),
        (("true", "1"), "str", ["true", "1"]),
        (("false", "0"), "str", ["false", "0"]),
        (("1", "abc", "2.5"), "str", ["1", "abc", "2.5"]),
        (("yes", "no"), "str", ["yes", "no"]),
        (("10:30", "11:00:05"), "str", ["10:30", "11:00:05"]),
        (("9007199254740993", "1"), "int64", [9007199254740993, 1]),
        (('"x, ""y""\nz"', "w"), "str", ['x, "y"\nz', "w"]),
        (("", "NA", "null"), "float64", [None, None, None]),
        (("2026-01-31", "1600-02-01"), "datetime64[us]", ["2026-01-31", "1600-02-01"]),
        (("2026-01-31 10:00", ""), "datetime64[us]", ["2026-01-31T10:00:00", None]),
        (("2026-01-31T10:00:00.25Z",), "datetime64[us, UTC]", ["2026-01-31T10:00:00.25Z"]),
        (("2026-01-31", "soon"), "str", ["2026-01-31", "soon"]),
    ],
)
def test_dtypes_of_a_csv_column(
    tmp_path: Path, values: tuple[str, ...], dtype: str, read_as: list[Any]
) -> None:
    rows = "".join(f"{value},{i}.5\n" for i, value in enumerate([*values, *values]))
    found = read(data(write(tmp_path, f"a,y\n{rows}"))).frame["a"]
    assert str(found.dtype) == dtype
    expected = pd.Series(read_as * 2, name="a", dtype=dtype)
    pd.testing.assert_series_equal(found, expected)


def test_a_column_that_changes_kind_far_down_is_typed_by_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "BLOCK", 64)
    late = [*map(str, range(500)), "x"]
    assert one_column(tmp_path, *late).tolist() == late
    late = [*map(str, range(500)), "0.5"]
    assert one_column(tmp_path, *late).tolist() == [*range(500), 0.5]
    late = ["", *[""] * 500, "2026-01-01"]
    assert one_column(tmp_path, *late).iloc[-1] == pd.Timestamp("2026-01-01")
    late = [*map(str, range(500)), "", "3"]
    assert one_column(tmp_path, *late).iloc[-1] == 3.0
    late = [*map(str, range(100, 600)), "0042"]
    assert one_column(tmp_path, *late).tolist() == late


def test_gzip_parquet_and_utf16_read_as_the_same_frame(tmp_path: Path) -> None:
    text = "i,a,b,d,y\n1,x,true,2026-01-31,0\n2,ü,,2026-02-01,1\n"
    plain = read(data(write(tmp_path, text), id="i"))
    packed = read(data(write(tmp_path, gzip.compress(text.encode()), "d.csv.gz"), id="i"))
    wide = read(data(write(tmp_path, text.encode("utf-16"), "w.csv"), id="i", encoding="utf-16"))
    marked = read(data(write(tmp_path, b"\xef\xbb\xbf" + text.encode(), "m.csv"), id="i"))
    plain.frame.to_parquet(tmp_path / "d.parquet")
    parquet = read(data(tmp_path / "d.parquet", id="i"))
    for other in (packed, wide, marked, parquet):
        pd.testing.assert_frame_equal(other.frame, plain.frame)
        assert other.ids.tolist() == plain.ids.tolist() == ["1", "2"]


def test_parquet_types_become_those_of_a_csv(tmp_path: Path) -> None:
    table = pa.table(
        {
            "category": pa.array(["a", "b"]).dictionary_encode(),
            "money": pa.array([Decimal("1.50"), Decimal("2.00")], pa.decimal128(10, 2)),
            "day": pa.array([1, None], pa.date32()),
            "small": pa.array([1, 2], pa.int8()),
            "__index_level_0__": [5, 6],
            "y": [0, 1],
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    frame = read(data(tmp_path / "d.parquet")).frame
    kinds = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert kinds == {
        "category": "str",
        "money": "float64",
        "day": "datetime64[us]",
        "small": "int8",
        "y": "int64",
    }


def test_ids_are_the_text_of_the_file_and_numbers_in_the_frame_where_nothing_is_lost(
    tmp_path: Path,
) -> None:
    whole = read(data(write(tmp_path, "i,a,y\n7,1,0\n10,2,1\n"), id="i"))
    assert whole.frame["i"].tolist() == [7, 10]
    padded = read(data(write(tmp_path, "i,a,y\n007,1,0\n10,2,1\n"), id="i"))
    assert padded.frame["i"].tolist() == padded.ids.tolist() == ["007", "10"]
    mixed = read(data(write(tmp_path, "i,a,y\n7,1,0\nA10,2,1\n"), id="i"))
    assert mixed.ids[0] == whole.ids[0] == "7"


def test_x_holds_features_and_gaps_of_booleans_as_nan(tmp_path: Path) -> None:
    dataset = read(data(write(tmp_path, "i,a,b,c,y\n1,true,q,1,no\n2,,r,2,yes\n"), drop=["c"]))
    assert dataset.features == ["i", "a", "b"]
    assert dataset.kinds == {"i": "integer", "a": "boolean", "b": "string"}
    assert dataset.x()["a"].tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert dataset.y().tolist() == ["no", "yes"]


def test_digest_does_not_import_pandas() -> None:
    code = (
        "import sys; from trilho.dataset import digest; "
        "digest('data/credit_default.csv'); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# What is refused


@pytest.mark.parametrize(
    ("text", "keys", "code", "says"),
    [
        ("", {}, 3, ["is empty"]),
        ("\n\n", {}, 3, ["is empty"]),
        ("a,y\n", {}, 3, ["header but no rows"]),
        ("a,y,a\n1,2,3\n", {}, 3, ["d.csv:1", "'a'", "unique"]),
        ("a,,y\n1,2,3\n", {}, 3, ["column 2 has no name"]),
        (b"a,y\nx,0\n\xfcber,1\n", {}, 3, ["d.csv:3", "0xfc", "offset 8", "cp1252"]),
        (b"\xfc,y\nx,0\nu,1\n", {}, 3, ["d.csv:1", "0xfc", "offset 0"]),
        ("a,y\nx,0\n".encode("utf-16"), {}, 3, ["d.csv:1", "utf-16"]),
        ("a,y\nü,0\nx,1\n", {"encoding": "ascii"}, 3, ["d.csv:2", "0xc3"]),
        ("a,y\nx,0\n", {"encoding": "klingon"}, 2, ["klingon", "data.encoding"]),
        ('a,y\n"x\nz",0\n3,1,9\n', {}, 3, ["d.csv:4", "3 values", "expected 2"]),
        ("a,b,y\n1,2,3\n4,5\n", {}, 3, ["d.csv:3", "2 values", "expected 3"]),
        ('a,y\n"x,1\n2,0\n', {}, 3, ["d.csv:2", "expected 2"]),
        ("a,y\n1,0\ninf,1\n-inf,1\n", {}, 3, ["d.csv:3", "'a'", "infinite", "2 in the column"]),
        ("a,y\n1,0\n1e999,1\n", {}, 3, ["d.csv:3", "infinite"]),
        ("a,target\n1,0\n", {"target": "traget"}, 3, ["'traget'", "did you mean 'target'?"]),
        ("a;y\n1;0\n", {}, 3, ["no column 'y'", "separated by commas"]),
        ("a,y\n1,0\n2,0\n", {}, 3, ["'y' is 0 in every row"]),
        ("a,y\n1,0\n2,\n3,1\n", {}, 3, ["d.csv:3", "missing", "1 times"]),
        ("a,y\n1,0\n2,1\n", {"id": "i"}, 3, ["'i'", "data.id"]),
        ("a,i,y\n1,k,0\n2,,1\n", {"id": "i"}, 3, ["d.csv:3", "'i' has 1 missing"]),
        ("a,b,y\n1,2,0\n2,2,1\n", {"drop": ["bb"]}, 2, ["data.drop", "did you mean 'b'?"]),
        ("a,y\n1,0\n2,1\n", {"drop": ["y"]}, 2, ["data.target"]),
        ("a,y\n1,0\n2,1\n", {"drop": ["a"]}, 2, ["no column left"]),
        ("a,y\n1,0\n2,1\n", {"positive": 3}, 2, ["data.positive", "0 and 1"]),
        ("a,y\n1,0\n2,1\n3,2\n", {"task": "binary"}, 3, ["3 distinct", "needs 2"]),
        ("a,y\n1,p\n2,q\n", {"task": "regression"}, 3, ["needs numbers"]),
        ("a,y\n1,2026-01-01\n2,2026-01-02\n", {}, 3, ["is a date"]),
        ("a,y\n" + "".join(f"1,t{i}\n" for i in range(50)), {}, 3, ["text with 50 distinct"]),
    ],
)
def test_bad_data_is_named(
    tmp_path: Path, text: str | bytes, keys: dict[str, Any], code: int, says: list[str]
) -> None:
    error = failure(write(tmp_path, text), **keys)
    shown = f"{error.message} {error.hint}"
    assert error.exit_code == code
    for part in says:
        assert part in shown, shown


def test_a_missing_file_suggests_the_one_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "a,y\n1,0\n", "clients.csv")
    assert "did you mean" in failure(tmp_path / "client.csv").message
    assert "folder" in failure(tmp_path.rename(tmp_path.with_suffix(".csv"))).message


def test_unknown_kinds_of_file_are_refused(tmp_path: Path) -> None:
    error = failure(write(tmp_path, "x", "d.xlsx"))
    assert error.exit_code == 2
    assert ".parquet" in error.message


@pytest.mark.parametrize("name", ["d.csv.gz", "d.parquet"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = pd.DataFrame({"a": range(5000), "y": [0, 1] * 2500})
    frame.to_csv(path, index=False) if name.endswith("gz") else frame.to_parquet(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes(64) + whole[middle + 64 :]
    for broken in (whole[:middle], b"no such format", changed):
        path.write_bytes(broken)
        if name == "d.parquet" and broken is changed:
            continue  # a page's bytes have no checksum; the digest is what notices
        assert "damaged" in failure(path).message


def test_parquet_with_values_no_model_reads(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [[1], [2]], "y": [0, 1]}), tmp_path / "d.parquet")
    assert "column 'a' holds values of type list" in failure(tmp_path / "d.parquet").message


# Tasks


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        (["no", "yes", "no", "yes"], "binary", ["no", "yes"]),
        (["false", "true", "true", "false"], "binary", [False, True]),
        (["0.0", "1.0", "0.0", "1.0"], "binary", [0.0, 1.0]),
        (["2", "1", "3", "1"], "multiclass", [1, 2, 3]),
        (["a", "b", "c", "a"], "multiclass", ["a", "b", "c"]),
        (["0.5", "1.5", "2.5", "1.5"], "regression", None),
        ([*map(str, range(30))], "regression", None),
    ],
)
def test_the_task_is_guessed_from_the_target(
    tmp_path: Path, target: list[str], task: str, classes: list[Any] | None
) -> None:
    path = write(tmp_path, "a,y\n" + "".join(f"{i},{y}\n" for i, y in enumerate(target)))
    dataset = read(data(path))
    assert dataset.task == task
    assert dataset.classes == classes
    assert dataset.positive == (classes[-1] if classes and task == "binary" else None)


def test_positive_is_found_as_text_and_returned_as_in_the_data(tmp_path: Path) -> None:
    path = write(tmp_path, "a,y\n1,0\n2,1\n")
    assert read(data(path, positive="0")).positive == 0


# Lines


@given(
    st.lists(
        st.tuples(st.text(alphabet='ab",\n\r é', max_size=6), st.integers(0, 9)),
        min_size=1,
        max_size=30,
    )
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
def test_csv_lines_are_where_the_rows_start(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    lines, text, line = [], "t,n\n", 2
    for value, number in rows:
        lines.append(line)
        quoted = value.replace('"', '""')
        record = f'"{quoted}",{number}\n'
        text += record
        # a text file's lines end with \n, \r\n or \r alone
        line += len(record.replace("\r\n", "\n").replace("\r", "\n").splitlines())
    path = write(tmp_path, text)
    wanted = list(reversed(range(len(rows))))
    assert csv_lines(path, wanted) == [lines[row] for row in wanted]
    assert csv_lines(path, []) == []


def test_csv_lines_skip_blank_lines_and_take_stray_quotes(tmp_path: Path) -> None:
    text = 'a,y\n\n5" pipe,1\n\n"q",2\n7" pipe,3\n'
    path = write(tmp_path, gzip.compress(text.encode()), "d.csv.gz")
    assert csv_lines(path, [0, 1, 2]) == [3, 5, 6]
    assert read(data(path)).frame["a"].tolist() == ['5" pipe', "q", '7" pipe']


# The hold-out


def dataset_of(frame: pd.DataFrame, **keys: Any) -> Dataset:
    """A dataset as `read` makes it, from a frame."""
    names = pd.Index(frame[keys["id"]].astype("str")) if "id" in keys else None
    left = {"target": "y", "id": None, "task": "regression", "classes": None, "positive": None}
    return Dataset(
        path="d.csv",
        file=Path("d.csv"),
        digest="",
        frame=frame.reset_index(drop=True),
        names=names,
        features=[],
        **left | keys,
    )


def rows_of(rows: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "i": [f"r{n}" for n in range(rows)],
            "a": random.normal(size=rows),
            "g": random.integers(0, max(2, rows // 5), rows),
            "when": pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 90, rows), "D"),
            "y": random.normal(size=rows),
        }
    )


SPLITS = [
    Split(),
    Split(seed=-7, holdout=0.5),
    Split(method="group", column="g"),
    Split(method="time", column="when", cutoff="2026-02-15"),
]


@given(
    old=st.integers(60, 200),
    added=st.integers(1, 200),
    order=st.randoms(use_true_random=False),
    split=st.sampled_from(SPLITS),
    named=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_adding_and_reordering_rows_moves_no_row(
    old: int, added: int, order: Any, split: Split, named: bool
) -> None:
    frame = rows_of(old + added)
    keys = {"id": "i"} if named else {}
    before = holdout(dataset_of(frame[:old], **keys), split)
    shuffled = list(range(old + added))
    order.shuffle(shuffled)
    after = holdout(dataset_of(frame.iloc[shuffled], **keys), split)
    side = dict(zip(shuffled, after, strict=True))
    assert [side[row] for row in range(old)] == before.tolist()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
@pytest.mark.parametrize("named", [True, False])
def test_the_share_is_close_to_the_asked_one_in_each_class(share: float, named: bool) -> None:
    frame = rows_of(40_000)
    frame["y"] = np.where(np.arange(40_000) % 20 == 0, "rare", "common")
    keys: dict[str, Any] = {"id": "i"} if named else {}
    dataset = dataset_of(frame, task="binary", classes=["common", "rare"], positive="rare", **keys)
    held = holdout(dataset, Split(holdout=share))
    for label, rows in (("common", 38_000), ("rare", 2_000)):
        deviation = (share * (1 - share) / rows) ** 0.5
        assert abs(held[frame["y"] == label].mean() - share) < 4 * deviation


def test_groups_are_never_divided_and_seeds_differ() -> None:
    dataset = dataset_of(rows_of(5_000), id="i")
    held = holdout(dataset, Split(method="group", column="g"))
    assert (dataset.frame.groupby("g")["a"].size() > 1).any()
    assert pd.Series(held).groupby(dataset.frame["g"]).nunique().max() == 1
    one, two = (holdout(dataset, Split(seed=s)) for s in (1, 2))
    # independent: a quarter of a quarter is common to both
    assert abs((one & two).mean() - 1 / 16) < 0.02


def test_rows_of_equal_content_share_a_side_whatever_their_label() -> None:
    frame = pd.concat([rows_of(500)] * 2, ignore_index=True).drop(columns="i")
    frame["y"] = np.arange(1000.0)
    held = holdout(dataset_of(frame), Split())
    assert (held[:500] == held[500:]).all()


def test_content_names_do_not_depend_on_dtype_or_order_of_columns() -> None:
    frame = pd.DataFrame(
        {"a": [1, 0, 3], "b": [True, False, True], "c": ["x", None, "z"], "y": 1.0}
    )
    names = dataset_of(frame).ids.tolist()
    other = frame[["c", "y", "b", "a"]].assign(
        a=[1.0, -0.0, 3.0], b=pd.array([True, False, True], dtype="boolean")
    )
    assert dataset_of(other).ids.tolist() == names
    assert len(set(names)) == 3


def test_golden_sides_and_names() -> None:
    """These may never change: a change would move rows between train and hold-out everywhere.

    Written down in another process, they also show that no PYTHONHASHSEED plays a part.
    """
    frame = pd.DataFrame(
        {
            "i": [str(n) for n in range(40)],
            "n": [float(n) / 3 for n in range(39)] + [None],
            "t": ["é", None] * 20,
            "d": pd.date_range("2026-01-01", periods=40).astype("datetime64[us]"),
            "y": 0.5,
        }
    )
    sides = holdout(dataset_of(frame, id="i"), Split())
    assert np.flatnonzero(sides).tolist() == GOLDEN_ROWS
    groups = holdout(dataset_of(frame, id="i"), Split(method="group", column="d", seed=7))
    assert np.flatnonzero(groups).tolist() == GOLDEN_GROUPS
    assert dataset_of(frame).ids[[0, 1, 39]].tolist() == GOLDEN_NAMES


GOLDEN_ROWS = [7, 9, 16, 17, 18, 19, 22, 23, 28, 31, 33, 38]
GOLDEN_GROUPS = [0, 1, 3, 7, 11, 12, 15, 25, 35, 37, 38]
GOLDEN_NAMES = ["a28358b9abac90c1", "06076bad52d35c66", "8f9a5a61e0326649"]


def test_time_split_by_share_takes_the_latest_and_keeps_moments_whole() -> None:
    frame = rows_of(1_000)
    held = holdout(dataset_of(frame), Split(method="time", column="when", holdout=0.2))
    assert frame["when"][held].min() > frame["when"][~held].max()
    assert 0.2 <= held.mean() < 0.23
    numbers = frame.assign(when=np.arange(1000) % 10)
    held = holdout(dataset_of(numbers), Split(method="time", column="when", cutoff="7"))
    assert held.mean() == 0.3


def test_time_split_understands_zones() -> None:
    frame = rows_of(100)
    frame["when"] = pd.date_range("2026-01-01", periods=100, freq="h", tz="America/Sao_Paulo")
    split = Split(method="time", column="when", cutoff="2026-01-02")
    # midnight UTC is nine in the evening of the day before
    assert (~holdout(dataset_of(frame), split)).sum() == 21


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (Split(method="group", column="t"), "missing values"),
        (Split(method="time", column="c"), "neither dates nor numbers"),
        (Split(method="time", column="when", cutoff="soon"), "is not a date"),
        (Split(method="time", column="when", cutoff="2030-01-01"), "no row"),
        (Split(method="group", column="one"), "no row"),
    ],
)
def test_impossible_splits_are_refused(split: Split, says: str) -> None:
    frame = rows_of(100).assign(t=[None, *["x"] * 99], c=["x", "y"] * 50, one=1)
    with pytest.raises(DataError if says in ("missing values", "no row") else UsageError) as caught:
        holdout(dataset_of(frame), split)
    assert says in caught.value.message


def test_a_split_that_leaves_no_row_of_a_class_is_refused() -> None:
    frame = rows_of(200).assign(y=["rare", *["common"] * 199])
    dataset = dataset_of(frame, task="binary", classes=["common", "rare"], positive="rare")
    with pytest.raises(DataError, match="no row of class 'rare'"):
        holdout(dataset, Split())


# Summaries


@given(
    st.lists(
        st.one_of(st.none(), st.integers(-(2**40), 2**40), st.floats(-1e9, 1e9, width=32)),
        min_size=2,
        max_size=60,
    ),
    st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_summaries_agree_with_pandas(values: list[Any], repeat: int) -> None:
    column = pd.Series(values * repeat, dtype="float64", name="a")
    for series in (column, column.dropna().astype("int64")):
        if series.empty:
            continue
        found = summarise(series.to_frame())[0]
        assert found.missing == series.isna().sum()
        assert found.unique == series.nunique()
        if series.notna().sum() > 1:
            near = 1e-9 * float(series.abs().max()) + 1e-9
            expected = [*series.agg(["min", "max", "mean"]), series.std()]
            figures = [found.min, found.max, found.mean, found.sd]
            assert figures == pytest.approx(expected, abs=near)
            if found.unique < len(series):
                assert found.top[0].count == series.value_counts().max()


def test_summaries_of_narrow_numbers_do_not_overflow() -> None:
    found = summarise(pd.DataFrame({"a": np.array([-128, 127, 127, 0], dtype="int8")}))[0]
    assert (found.min, found.max, found.unique, found.mean) == (-128, 127, 3, 31.5)
    assert [(t.value, t.count) for t in found.top[:1]] == [("127", 2)]
    huge = summarise(pd.DataFrame({"a": [1.7e308, -1.7e308, 1.7e308]}))[0]
    assert (huge.max, huge.sd) == (1.7e308, None)


def test_summaries_of_text_booleans_and_dates(tmp_path: Path) -> None:
    path = write(tmp_path, "t,b,d,y\nx,true,2026-01-31,0\nx,,2026-02-01,1\n,false,,0\n")
    text, flag, date, _ = summarise(read(data(path)).frame)
    assert (text.kind, text.missing, text.unique) == ("string", 1, 1)
    assert [(t.value, t.count) for t in text.top] == [("x", 2)]
    assert (flag.kind, flag.missing, flag.unique) == ("boolean", 1, 2)
    assert (date.min, date.max) == ("2026-01-31T00:00:00", "2026-02-01T00:00:00")


# S3


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with moto.mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="bucket")
        yield s3


def test_s3_objects_are_fetched_once_per_content(bucket: Any) -> None:
    bucket.put_object(Bucket="bucket", Key="k/d.csv", Body=b"a,y\n1,0\n2,1\n")
    first = local("s3://bucket/k/d.csv")
    assert first.read_bytes() == b"a,y\n1,0\n2,1\n"
    assert digest("s3://bucket/k/d.csv") == sha256_bytes(first.read_bytes())
    changed = first.stat().st_mtime_ns
    assert local("s3://bucket/k/d.csv") == first
    assert first.stat().st_mtime_ns == changed
    bucket.put_object(Bucket="bucket", Key="k/d.csv", Body=b"a,y\n1,0\n2,1\n3,1\n")
    assert len(read(data("s3://bucket/k/d.csv")).frame) == 3
    assert first.read_bytes() == b"a,y\n1,0\n2,1\n"
    assert not list(first.parent.glob("*.partial"))


@pytest.mark.parametrize("url", ["s3://bucket/none.csv", "s3://nowhere-at-all/d.csv"])
def test_s3_objects_that_do_not_exist(bucket: Any, url: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        local(url)


def test_s3_addresses_must_be_whole_and_reachable(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="s3://bucket/key"):
        local("s3://d.csv")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UnavailableError, match="could not be fetched"):
        local("s3://bucket/d.csv")
