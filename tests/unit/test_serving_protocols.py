"""Every way to ask the service, by hand and by the clients that people use."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import served
from hypothesis import given, settings
from hypothesis import strategies as st
from served import CLASSES, COLUMNS, ROW, ROWS, THRESHOLD, Service, expected, running

from trilho import bundle
from trilho.bundle import Column, Signature
from trilho.dataset import table
from trilho.serving import parquet, predictor, tables
from trilho.serving.columns import Columns
from trilho.serving.decode import Decoder
from trilho.serving.inference import Inference
from trilho.serving.media import Readers
from trilho.serving.messages import BadInputError, ProblemError
from trilho.serving.predictor import Identity, Predictor

MARK = "do-not-echo-me"
NAMES = [column.name for column in COLUMNS]
EXPECTED = [expected(row) for row in ROWS]
FULL = [{name: row.get(name) for name in NAMES} for row in ROWS]
CSV = {"content-type": "text/csv"}
PARQUET = {"content-type": "application/vnd.apache.parquet"}
DATATYPES = {"string": "BYTES", "date": "BYTES", "integer": "INT64", "number": "FP64"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocols") / "bundle"
    served.make_bundle(path, id="client")
    return path


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_MODEL_VERSION="7", TRILHO_MAX_ROWS="5000") as it:
        yield it


@pytest.fixture(scope="module")
def model(folder: Path) -> Predictor:
    return predictor.load(folder, *bundle.verify(folder), version="7", max_rows=100)


@pytest.fixture(scope="module")
def readers(model: Predictor) -> Iterator[Readers]:
    it = Readers(model)
    yield it
    it.parquet.__self__.close()  # type: ignore[union-attr]


def as_csv(rows: list[dict[str, Any]], *, header: bool = True) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    if header:
        writer.writerow(rows[0])
    writer.writerows(["" if v is None else v for v in row.values()] for row in rows)
    return out.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    out = io.BytesIO()
    frame = pd.DataFrame(rows)
    if "joined" in frame:
        frame["joined"] = pd.to_datetime(frame["joined"])
    frame.to_parquet(out, **options)
    return out.getvalue()


def tensors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": column.name,
                "shape": [len(rows)],
                "datatype": DATATYPES.get(column.kind, "BOOL"),
                "data": [row[column.name] for row in rows],
            }
            for column in COLUMNS
        ]
    }


def shapes(rows: list[dict[str, Any]]) -> dict[str, tuple[str, bytes]]:
    """The same rows (with all columns) in every shape: content type and body."""
    lists = [list(row.values()) for row in rows]
    columns = {name: [row[name] for row in rows] for name in NAMES}
    bodies = {
        "list": rows,
        "dataframe_records": {"dataframe_records": rows},
        "dataframe_split": {
            "dataframe_split": {"columns": NAMES, "data": lists, "index": [*range(len(rows))]}
        },
        "instances of records": {"instances": rows, "params": {"a": 1}},
        "instances of lists": {"instances": lists},
        "inputs by columns": {"inputs": columns},
        "inputs of records": {"inputs": rows, "params": None},
    }
    found = {name: ("application/json", json.dumps(body).encode()) for name, body in bodies.items()}
    found["csv"] = ("text/csv; charset=utf-8", as_csv(rows))
    found["csv without header"] = ("text/csv; header=absent", as_csv(rows, header=False))
    found["parquet"] = ("application/vnd.apache.parquet", as_parquet(rows))
    return found


# ── all shapes mean the same ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", shapes(FULL))
def test_every_shape_gets_the_same_answer(service: Service, folder: Path, shape: str) -> None:
    kind, body = shapes(FULL)[shape]
    status, answer, _ = service.ask("POST", "/invocations", body, {"content-type": kind})
    assert status == 200, answer
    assert answer["predictions"] == pytest.approx(EXPECTED, abs=1e-12)
    assert answer["decisions"] == [CLASSES[p >= THRESHOLD] for p in EXPECTED]
    digest = bundle.read_manifest(folder)[1]
    assert answer["model"] == {"name": "tiny", "version": "7", "digest": digest}


words = (
    st.none()
    | st.sampled_from(["Porto", "Lisboa"])
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=8).filter(
        lambda text: text not in tables.MISSING
    )
)


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "city": words,
                "age": st.integers(-1000, 1000),
                "income": st.none() | st.floats(-1e5, 1e5),
                "married": st.booleans(),
                "joined": st.none() | st.dates(min_value=pd.Timestamp.min.date()).map(str),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=100, deadline=None)
def test_shapes_never_differ(
    model: Predictor, readers: Readers, rows: list[dict[str, Any]]
) -> None:
    rows = [{name: row[name] for name in NAMES} for row in rows]
    wanted = [expected(row) for row in rows]
    for shape, (kind, body) in shapes(rows).items():
        scores = model.predict(readers.find(kind.encode())(body)).scores
        assert scores.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12), shape


def test_nan_is_missing_wherever_it_comes_from(model: Predictor) -> None:
    nan = float("nan")
    batch = model.columns.from_lists({"age": [1], "married": [True], "income": [nan]}, 1)
    assert model.predict(batch).scores.tolist() == pytest.approx(
        [expected({"age": 1, "married": True})]
    )
    with pytest.raises(BadInputError) as caught:
        model.columns.from_lists({"age": [1, nan], "married": [True, True]}, 2)
    assert (caught.value.row, caught.value.field) == (1, "age")


def test_names_of_rows_are_kept_with_the_prediction(readers: Readers) -> None:
    """The id is no input: it is carried for those who keep predictions."""
    rows = [{**row, "client": name} for row, name in zip(FULL, [7, "b", None, 2.5], strict=True)]
    for kind, body in (
        ("application/json", json.dumps(rows).encode()),
        ("application/json", json.dumps({"inputs": rows}).encode()),
        ("text/csv", as_csv(rows)),
    ):
        ids = readers.find(kind.encode())(body).ids
        assert ids == ([7, "b", None, 2.5] if kind != "text/csv" else ["7", "b", None, "2.5"])
    assert readers.find(None)(json.dumps(FULL).encode()).ids == [None] * 4
    with pytest.raises(BadInputError) as caught:
        readers.find(None)(json.dumps([{**ROW, "client": [MARK]}]).encode())
    assert (caught.value.row, caught.value.field) == (0, "client")


# ── what is wrong, in each shape ──────────────────────────────────────────────────────────────────

SPLIT = {"columns": ["age", "married"], "data": [[1, True]]}
BAD_JSON: dict[str, tuple[Any, int | None, str | None, str]] = {
    "two shapes": ({"instances": [ROW], "inputs": [ROW]}, None, None, "not both"),
    "short row": ({"dataframe_split": SPLIT | {"data": [[1, True], [1]]}}, 1, None, "2 values"),
    "no rows": ({"dataframe_split": SPLIT | {"data": []}}, None, None, "no row"),
    "column twice": (
        {"dataframe_split": {"columns": ["age", "age"], "data": [[1, 2]]}}, None, None, "twice",
    ),
    "required column missing": (
        {"dataframe_split": {"columns": ["age"], "data": [[1]]}}, None, "married", "is missing",
    ),
    "wrong type in split": (
        {"dataframe_split": SPLIT | {"data": [[1, True], [MARK, True]]}}, 1, "age",
        "expected number, got string",
    ),
    "no list in split": ({"dataframe_split": SPLIT | {"data": [[1, True], 5]}}, 1, None, "list"),
    "number for a boolean": (
        {"dataframe_split": SPLIT | {"data": [[1, 1]]}}, 0, "married", "expected boolean",
    ),
    "null in a required column": (
        {"inputs": {"age": [1, None], "married": [True, True]}}, 1, "age", "got null",
    ),
    "columns of different length": (
        {"inputs": {"age": [1, 2], "married": [True]}}, None, "married", "expected 2 values",
    ),
    "no list as column": ({"inputs": {"age": MARK, "married": [True]}}, None, "age", "list"),
    "a fraction": ({"inputs": {"age": [1, 1.5], "married": [True] * 2}}, 1, "age", "whole number"),
    "a huge number": (
        {"inputs": {"age": [10**400], "married": [True]}}, 0, "age", "out of range",
    ),
    "a huge whole number": (
        {"inputs": {"age": [10**300], "married": [True]}}, 0, "age", "whole number",
    ),
    "a date of nonsense": (
        {"inputs": {"age": [1], "married": [True], "joined": [MARK]}}, 0, "joined", "date",
    ),
    "an object for a text": (
        {"instances": [[{"a": MARK}, 1, None, True, None]]}, 0, "city",
        "expected string or null, got object",
    ),
    "instances of one row": ({"instances": ROW}, None, "age", "expected list"),
    "instances of numbers": ({"instances": [1, 2]}, 0, None, "expected object"),
    "nothing": ({"inputs": {}}, None, None, "no row"),
    "NaN in split": (
        b'{"dataframe_split":{"columns":["married","age"],"data":[[true,1],[true,NaN]]}}',
        1, "age", "no NaN",
    ),
    "NaN in columns": (b'{"inputs":{"age":[1,NaN],"married":[true]}}', 1, "age", "no NaN"),
    "too many rows": ([{"age": 1, "married": True}] * 5001, None, None, "at most 5000"),
    "too many objects": (b"[" + b"{}," * 10_000 + b"{}]", None, None, "more than 5000 objects"),
    "not UTF-8 where nobody looks": (
        b'[{"age":1,"married":true,"x":"\xff"}]', None, None, "not valid UTF-8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_JSON)
def test_refuses_bad_json_by_row_and_field(service: Service, case: str) -> None:
    value, row, field, message = BAD_JSON[case]
    status, answer = service.predict(value)
    assert status == (413 if case.startswith("too many") else 400)
    assert message in answer["error"]
    assert (answer.get("row"), answer.get("field")) == (row, field)
    assert MARK not in json.dumps(answer)


HEAD = b"city,age,income,married,joined\n"
BAD_CSV: dict[str, tuple[bytes, int | None, str | None, str]] = {
    "empty": (b"", None, None, "no row"),
    "header alone": (HEAD, None, None, "no row"),
    "short record": (HEAD + b"Porto,1,2,true,\nPorto,1\n", 1, None, "expected 5 values"),
    "column missing": (b"age\n1\n", None, "married", "required field is missing"),
    "column twice": (b"age,age\n1,1\n", None, None, "named twice"),
    "text for a number": (HEAD + b",do-not-echo-me,,true,\n", 0, "age", "expected number"),
    "missing and required": (HEAD + b",1,,true,\n,,,true,\n", 1, "age", "got null"),
    "underscores": (HEAD + b",1_000,,true,\n", 0, "age", "expected number"),
    "infinity": (HEAD + b",1,inf,true,\n", 0, "income", "out of range"),
    "beyond infinity": (HEAD + b",1,1e999,true,\n", 0, "income", "out of range"),
    "minus nan": (HEAD + b",1,-nan,true,\n", 0, "income", "expected number"),
    "number for a boolean": (HEAD + b",1,,1,\n", 0, "married", "true or false"),
    "no date": (HEAD + b",1,,true,do-not-echo-me\n", 0, "joined", "expected a date"),
    "open quote": (HEAD + b'"do-not-echo-me,1,,true,\n', 0, None, "not valid CSV"),
    "quote inside": (HEAD + b'"do-not"-echo-me,1,,true,\n', 0, None, "not valid CSV"),
    "not UTF-8": (HEAD + b"\xff,1,,true,\n", None, None, "UTF-8"),
    "UTF-16": (HEAD.decode().encode("utf-16"), None, None, "UTF-8"),
    "too many rows": (HEAD + b",1,,true,\n" * 5001, None, None, "more than 5000 rows"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_refuses_bad_csv_by_row_and_field(service: Service, case: str) -> None:
    body, row, field, message = BAD_CSV[case]
    status, answer, _ = service.ask("POST", "/invocations", body, CSV)
    assert status == (413 if case == "too many rows" else 400)
    assert message in answer["error"]
    assert (answer.get("row"), answer.get("field")) == (row, field)
    assert MARK not in json.dumps(answer)


def test_reads_csv_as_the_training_data_were_read(service: Service) -> None:
    assert set(table.MISSING) == tables.MISSING
    text = (
        "\ufeffother,joined,married,income,age,city\r\n"
        f'x,,TRUE,NA,71,"{MARK}, ""quoted""\nand long"\r\n\r\n'
        "y,2024-02-29,True,1250.5,44.0,Porto\r\n"
    )
    status, answer, _ = service.ask("POST", "/invocations", text.encode(), CSV)
    assert status == 200
    wanted = [expected({"age": 71, "married": True}), expected(ROW)]
    assert answer["predictions"] == pytest.approx(wanted, abs=1e-12)


def test_reads_any_parquet_that_is_sound(service: Service) -> None:
    for options in (
        {"compression": None},
        {"compression": "lz4"},
        {"row_group_size": 1},
        {"version": "1.0"},
        {"use_dictionary": False},
    ):
        body = as_parquet([{**row, "other": {"a": 1}["a"]} for row in FULL], **options)
        status, answer, _ = service.ask("POST", "/invocations", body, PARQUET)
        assert status == 200, (options, answer)
        assert answer["predictions"] == pytest.approx(EXPECTED, abs=1e-12)


def test_refuses_bad_parquet_by_row_and_field(service: Service) -> None:
    sound = as_parquet(FULL)
    many = pd.DataFrame({"age": [1] * 6000, "married": [True] * 6000})
    cases: list[tuple[bytes, int, str | None, str]] = [
        (b"", 400, None, "not valid Parquet"),
        (b"PAR1", 400, None, "not valid Parquet"),
        (sound[:-9], 400, None, "not valid Parquet"),
        (sound[: len(sound) // 2] + sound[len(sound) // 2 + 1 :], 400, None, "not valid Parquet"),
        (as_parquet([{"married": True}]), 400, "age", "required field is missing"),
        (as_parquet([{"age": MARK, "married": True}]), 400, "age", "expected number, got string"),
        (as_parquet([{"age": [1], "married": True}]), 400, None, "nested"),
        (as_parquet([{"age": float("inf"), "married": True}]), 400, "age", "out of range"),
        (many.to_parquet(), 413, None, "6000 rows"),
        (many.head(0).to_parquet(), 400, None, "no row"),
    ]
    for body, wanted, field, message in cases:
        status, answer, _ = service.ask("POST", "/invocations", body, PARQUET)
        assert (status, answer.get("field")) == (wanted, field), (message, answer)
        assert message in answer["error"]
        assert MARK not in json.dumps(answer)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_parquet_with_wrong_bytes_is_refused_or_read(readers: Readers, data: st.DataObject) -> None:
    body = bytearray(as_parquet(FULL))
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert readers.parquet is not None
    with suppress(ProblemError):  # anything else is ours
        assert readers.parquet(bytes(body)).rows <= 100


def test_parquet_that_takes_its_reader_down_takes_nothing_else_down(
    model: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = parquet.Reader(model.columns, 100, seconds=5)
    sound = as_parquet(FULL)
    assert reader.read(sound).rows == 4
    assert reader._process is not None
    first = reader._process
    first.kill()
    first.wait()
    assert reader.read(sound).rows == 4  # by another one
    assert reader._process is not first
    reader._process.send_signal(signal.SIGSTOP)  # one that hangs
    reader._seconds = 0.2
    with pytest.raises(BadInputError, match="not valid Parquet"):
        reader.read(sound)
    reader._seconds = 5
    assert reader.read(sound).columns["city"].tolist() == [row["city"] for row in FULL]
    reader.close()


def test_parquet_is_read_within_a_bound_on_memory(model: Predictor) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    out = io.BytesIO()
    table = pa.table({"age": [1], "married": [True], "city": ["x" * (70 << 20)]})
    pq.write_table(table, out, compression="gzip")
    assert len(out.getvalue()) < 1 << 20
    for memory, error in ((1 << 30, "too much text"), (200 << 20, "not valid Parquet")):
        reader = parquet.Reader(model.columns, 100, memory=memory)
        with pytest.raises(ProblemError, match=error):
            reader.read(out.getvalue())
        assert reader.read(as_parquet(FULL)).rows == 4
        reader.close()


def test_parquet_made_to_swell_does_not(service: Service) -> None:
    """Ten thousand times its size if it were believed: 40 kB for 400 MB and more."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    long = "x" * 100_000
    rows = 4000
    for columns, options in (
        ({"city": [long] * rows}, {"compression": "gzip"}),
        ({"city": [long + str(i) for i in range(rows)]},
         {"use_dictionary": False, "column_encoding": {"city": "DELTA_BYTE_ARRAY"}}),
        ({"other": [long] * rows}, {"compression": "zstd", "use_dictionary": False}),
    ):  # fmt: skip
        out = io.BytesIO()
        table = pa.table({"age": [1] * rows, "married": [True] * rows} | columns)
        pq.write_table(table, out, **options)
        assert len(out.getvalue()) < 2 << 20
        before = resident(service)
        status, answer, _ = service.ask("POST", "/invocations", out.getvalue(), PARQUET)
        assert status in (200, 400, 413), answer
        assert resident(service) - before < 300 << 20
    assert service.predict(ROWS)[0] == 200


def resident(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(x.split()[1]) * 1024 for x in status.splitlines() if x.startswith("VmRSS"))


@given(body=st.text(st.characters(codec="utf-8") | st.sampled_from(',"\n\r'), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_as_csv_is_refused_or_read(model: Predictor, body: str) -> None:
    for header in (True, False):
        for text in (body, HEAD.decode() + body):
            with suppress(ProblemError):  # anything else is ours
                tables.read_csv(text.encode(), model.columns, 100, header=header)


def test_says_415_where_parquet_cannot_be_read(
    model: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "parquet_is_possible", lambda: False)
    with pytest.raises(ProblemError, match=r"send application/json or text/csv,") as caught:
        Readers(model).find(b"application/vnd.apache.parquet")
    assert caught.value.status == 415


# ── Open Inference Protocol ───────────────────────────────────────────────────────────────────────

INFER = "/v2/models/tiny/infer"


def infer(service: Service, request: Any, path: str = INFER) -> tuple[int, Any]:
    status, answer, _ = service.ask("POST", path, json.dumps(request))
    return status, answer


def test_infers_by_tensors(service: Service, folder: Path) -> None:
    for path in (INFER, "/v2/models/tiny/versions/7/infer"):
        status, answer = infer(service, tensors(FULL) | {"id": "r1"}, path)
        assert status == 200
        digest = bundle.read_manifest(folder)[1]
        assert (answer["model_name"], answer["model_version"]) == ("tiny", "7")
        assert (answer["parameters"], answer["id"]) == ({"digest": digest}, "r1")
        first, second = answer["outputs"]
        assert (first["name"], first["datatype"], first["shape"]) == ("predictions", "FP64", [4])
        assert first["data"] == pytest.approx(EXPECTED, abs=1e-12)
        assert (second["name"], second["datatype"], second["shape"]) == ("decisions", "BYTES", [4])
        assert second["data"] == [CLASSES[p >= THRESHOLD] for p in EXPECTED]


def test_gives_the_outputs_that_are_asked_for(service: Service) -> None:
    asked = tensors(FULL) | {"outputs": [{"name": "decisions", "parameters": {"a": 1}}]}
    assert [t["name"] for t in infer(service, asked)[1]["outputs"]] == ["decisions"]
    status, answer = infer(service, tensors(FULL) | {"outputs": [{"name": MARK}]})
    assert (status, answer["field"]) == (400, "outputs")
    assert MARK not in answer["error"]


def test_takes_tensors_as_clients_write_them(service: Service) -> None:
    """Nested, as columns of a matrix, numbers for booleans, more than the model knows."""
    request = tensors(FULL[:2])
    for tensor in request["inputs"]:
        tensor["shape"] = [2, 1]
        tensor["parameters"] = {"content_type": "np"}
    request["inputs"][0]["data"] = [[value] for value in request["inputs"][0]["data"]]
    request["inputs"][3]["data"] = [1, 0.0]
    request["inputs"].append({"name": "x", "shape": [9, 9], "datatype": "FP64", "data": []})
    request["parameters"] = {"a": "b"}
    status, answer = infer(service, request)
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == pytest.approx(EXPECTED[:2], abs=1e-12)
    status, answer = infer(service, {"inputs": tensors(FULL[2:3])["inputs"][1::2]})
    assert answer["outputs"][0]["data"] == pytest.approx([EXPECTED[2]], abs=1e-12)


def one(**changes: Any) -> dict[str, Any]:
    return {"name": "age", "shape": [1], "datatype": "INT64", "data": [1]} | changes


MARRIED = {"name": "married", "shape": [1], "datatype": "BOOL", "data": [True]}
BAD_TENSORS: dict[str, tuple[Any, int | None, str | None, str]] = {
    "no inputs": ({}, None, "inputs", "is missing"),
    "empty": ({"inputs": []}, None, None, "no row"),
    "no data": ({"inputs": [{"name": "a", "shape": [1], "datatype": "BOOL"}]}, None, "data", "is"),
    "shape": ({"inputs": [one(shape=[2]), MARRIED]}, None, "age", "expected shape [rows]"),
    "deep shape": ({"inputs": [one(shape=[1, 1, 1]), MARRIED]}, None, "age", "expected shape"),
    "negative shape": ({"inputs": [one(shape=[-1]), MARRIED]}, None, "age", "expected shape"),
    "huge shape": ({"inputs": [one(shape=[2**40]), MARRIED]}, None, "age", "expected shape"),
    "ragged": ({"inputs": [one(shape=[2, 1], data=[[1], 2])]}, None, "age", "nested"),
    "datatype": ({"inputs": [one(datatype=MARK), MARRIED]}, None, "age", "FP64"),
    "twice": ({"inputs": [one(), one()]}, None, "inputs", "twice"),
    "lengths": ({"inputs": [one(), MARRIED | {"shape": [2], "data": [True, False]}]},
                None, "married", "expected 1 values"),
    "type": ({"inputs": [one(data=[MARK]), MARRIED]}, 0, "age", "got string"),
    "null": ({"inputs": [one(data=[None]), MARRIED]}, 0, "age", "got null"),
    "two for a boolean": ({"inputs": [one(), MARRIED | {"data": [2]}]}, 0, "married", "boolean"),
    "id": ({"inputs": [one(), MARRIED], "id": 5}, None, "id", "expected string or null"),
    "long id": ({"inputs": [one(), MARRIED], "id": MARK * 100}, None, "id", "<= 256"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_refuses_bad_tensors_by_row_and_field(service: Service, case: str) -> None:
    value, row, field, message = BAD_TENSORS[case]
    status, answer = infer(service, value)
    assert status == 400
    assert message in answer["error"]
    assert (answer.get("row"), answer.get("field")) == (row, field)
    assert MARK not in json.dumps(answer)


def test_takes_a_matrix_where_all_columns_are_numbers() -> None:
    signature = Signature(
        columns=[Column(name="b", kind="number", required=False), Column(name="a", kind="integer")],
        target="y",
        task="multiclass",
        classes=[3, 5, 7],
    )
    columns = Columns(signature)
    protocol = Inference(
        signature, columns, Decoder(columns, 10), Identity(name="m", version=None, digest="d")
    )
    assert [t.datatype for t in protocol.metadata.outputs] == ["FP64", "INT64"]
    assert protocol.metadata.outputs[0].shape == [-1, 3]
    matrix = {"name": "x", "shape": [2, 2], "datatype": "FP32"}
    for data in ([0.5, 1, None, 2], [[0.5, 1], [None, 2]]):
        batch, _ = protocol.read(json.dumps({"inputs": [matrix | {"data": data}]}).encode())
        assert batch.columns["a"].tolist() == [1, 2]
        assert batch.columns["b"].tolist() == pytest.approx([0.5, float("nan")], nan_ok=True)
    with pytest.raises(BadInputError, match=r"\[rows, 2\]") as caught:
        protocol.read(json.dumps({"inputs": [matrix | {"data": [1]}]}).encode())
    assert caught.value.field == "inputs"


def test_describes_server_and_model(service: Service) -> None:
    assert service.ask("GET", "/v2")[1]["name"] == "trilho"
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/7"):
        status, found, _ = service.ask("GET", path)
        assert (status, found["name"], found["versions"]) == (200, "tiny", ["7"])
        assert [tensor["name"] for tensor in found["inputs"]] == NAMES
        assert service.ask("GET", f"{path}/ready")[:2] == (200, {"name": "tiny", "ready": True})
    assert service.ask("GET", "/v2/health/live")[:2] == (200, {"live": True})
    assert service.ask("GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    for path in (
        "/v2/models/other",
        "/v2/models/tiny/versions/8",
        "/v2/models/tiny/versions/8/infer",
    ):
        assert service.ask("GET", path)[0] == 404


def test_says_415_to_binary_tensors(service: Service) -> None:
    headers = {"inference-header-content-length": "2", "content-type": "application/json"}
    status, answer, _ = service.ask("POST", INFER, b"{}\x00", headers)
    assert (status, "binary tensors" in answer["error"]) == (415, True)
    assert service.ask("POST", INFER, b"a,b\n", CSV)[0] == 415


# ── the clients that people use ───────────────────────────────────────────────────────────────────


def test_answers_mlflows_client(service: Service) -> None:
    client = pytest.importorskip("mlflow.pyfunc.scoring_server.client")
    from trilho import __version__

    found = client.ScoringServerClient("127.0.0.1", service.port)
    found.wait_server_ready(timeout=20)
    assert found.get_version() == __version__
    frame = pd.DataFrame(FULL[:1] + FULL[3:]).assign(client=["a", "b"])
    for data in (frame, [ROW, ROWS[3]], json.dumps({"dataframe_records": [ROW, ROWS[3]]})):
        answer = found.invoke(data)
        assert answer["predictions"] == pytest.approx([EXPECTED[0], EXPECTED[3]], abs=1e-12)
        assert answer.get_predictions().shape == (2, 1)
    with pytest.raises(Exception, match=r"400.*no NaN.*income"):  # it writes NaN for missing
        found.invoke(pd.DataFrame(FULL))


def test_answers_sagemakers_client(service: Service) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{service.port}",
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 0}),
    )
    for kind, body in shapes(FULL).values():
        answer = runtime.invoke_endpoint(EndpointName="tiny", ContentType=kind, Body=body)
        assert answer["ContentType"] == "application/json"
        assert json.load(answer["Body"])["predictions"] == pytest.approx(EXPECTED, abs=1e-12)
    for name, body, status in (("tiny", b"[{}]", 400), ("other", b"[]", 404)):
        with pytest.raises(ClientError) as caught:
            runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=body)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_answers_curl(service: Service, tmp_path: Path) -> None:
    def curl(*arguments: str) -> Any:
        address = f"http://127.0.0.1:{service.port}/invocations"
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "20", *arguments, address],
            capture_output=True,
            check=True,
        )
        return json.loads(done.stdout)["predictions"]

    (tmp_path / "rows.csv").write_bytes(as_csv(FULL))
    data = f"@{tmp_path / 'rows.csv'}"
    assert curl("-H", "content-type: text/csv", "--data-binary", data) == pytest.approx(EXPECTED)
    kind = ("-H", "content-type: application/json")
    body = json.dumps(FULL * 1000)  # so large that it asks before it sends
    (tmp_path / "rows.json").write_text(body + " " * (2 << 20))
    data = f"@{tmp_path / 'rows.json'}"
    for more in (
        [],
        ["--http1.0"],
        ["-H", "expect: 100-continue"],
        ["-H", "transfer-encoding: chunked"],
    ):
        assert curl(*kind, *more, "--data-binary", data)[:4] == pytest.approx(EXPECTED)
    upgrade = ["--http2"] if "HTTP2" in curl_features() else []
    assert curl(*kind, *upgrade, "-d", json.dumps(FULL)) == pytest.approx(EXPECTED)


def curl_features() -> str:
    return subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout


CLIENTS = [
    "tritonclient[http]==2.73.0",
    "open-inference-openapi==2.0.0.1",
    "prometheus-client==0.26.0",
]
TRITON = """
import sys
import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "7")
names = [tensor["name"] for tensor in client.get_model_metadata("tiny")["inputs"]]

def tensor(name, datatype, values):
    made = http.InferInput(name, [len(values)], datatype)
    made.set_data_from_numpy(np.array(values), binary_data=False)
    return made

inputs = [
    tensor("age", "INT64", [44, 30]),
    tensor("income", "FP64", [1250.5, -2e3]),
    tensor("married", "BOOL", [True, False]),
    tensor("city", "BYTES", np.array(["Porto", "nowhere"], dtype=object)),
    tensor("joined", "BYTES", np.array(["2024-02-29", "1969-07-20"], dtype=object)),
]
assert set(names) == {"age", "income", "married", "city", "joined"}
answer = client.infer("tiny", inputs, request_id="r1")
print(answer.as_numpy("predictions").tolist(), answer.as_numpy("decisions").tolist())
try:
    client.infer("tiny", inputs[:1])
except Exception as error:
    assert "400" in str(error), error
"""
OPEN_INFERENCE = """
import sys
from open_inference.openapi.client import InferenceRequest, OpenInferenceClient

client = OpenInferenceClient(base_url=f"http://127.0.0.1:{sys.argv[1]}")
client.check_server_liveness()
client.check_server_readiness()
client.check_model_readiness("tiny")
assert client.read_server_metadata().name == "trilho"
assert client.read_model_metadata("tiny").versions == ["7"]
values = [("age", "INT64", [44, 30]), ("income", "FP64", [1250.5, -2e3]),
          ("married", "BOOL", [True, False]), ("city", "BYTES", ["Porto", "nowhere"]),
          ("joined", "BYTES", ["2024-02-29", "1969-07-20"])]
inputs = [{"name": n, "shape": [2], "datatype": d, "data": v} for n, d, v in values]
answer = client.model_infer("tiny", request=InferenceRequest(inputs=inputs))
print(*[output.data.__root__ for output in answer.outputs])
"""
PROMETHEUS = """
import sys
import urllib.request
from prometheus_client.parser import text_string_to_metric_families

text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode()
families = {family.name: family for family in text_string_to_metric_families(text)}
rows = families["trilho_rows"].samples[0].value
assert families["trilho_score"].type == "histogram" and rows > 0
assert families["process_resident_memory_bytes"].samples[0].labels == {"worker": "0"}
print(int(rows))
"""


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with clients from PyPI; the path of its interpreter."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    place = tmp_path_factory.mktemp("clients") / "venv"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([uv, "venv", "-q", "--python", version, place], check=True, timeout=120)
    python = place / "bin/python"
    install = [uv, "pip", "install", "-q", "--only-binary", ":all:", "--python", python, *CLIENTS]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"no package registry: {done.stderr.strip()[-300:]}")
    return python


@pytest.mark.parametrize("code", [TRITON, OPEN_INFERENCE], ids=["triton", "open-inference"])
def test_answers_clients_of_the_open_inference_protocol(
    service: Service, clients: Path, code: str
) -> None:
    out = run(clients, code, service)
    predictions, decisions = out.replace("] [", "]|[").split("|")
    assert json.loads(predictions) == pytest.approx([EXPECTED[0], EXPECTED[3]], abs=1e-6)
    assert decisions.replace("'", '"') == '["yes", "no"]'


def test_is_read_by_prometheus(service: Service, clients: Path) -> None:
    service.predict(ROWS)
    assert int(run(clients, PROMETHEUS, service)) >= 4


def run(python: Path, code: str, service: Service) -> str:
    command = [python, "-c", code, str(service.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
