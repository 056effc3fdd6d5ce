"""The service as its users meet it: real processes, real HTTP."""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import served
from hypothesis import example, given, settings
from hypothesis import strategies as st
from served import CLASSES, COLUMNS, ROW, ROWS, THRESHOLD, Service, expected, running

from trilho import bundle
from trilho.bundle import Column
from trilho.errors import IntegrityError, UsageError
from trilho.registry import open_registry
from trilho.serving import predictor
from trilho.serving import settings as service_settings
from trilho.serving.app import App
from trilho.serving.messages import BadInputError, Request
from trilho.serving.predictor import Predictor
from trilho.serving.settings import Limits
from trilho.serving.work import INLINE_BODY

MARK = "do-not-echo-me"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "bundle"
    served.make_bundle(path)
    return path


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_MODEL_VERSION="7") as it:
        yield it


def load(folder: Path) -> Predictor:
    return predictor.load(folder, *bundle.verify(folder), version=None)


def answer(model: Predictor, body: bytes) -> Any:
    return json.loads(model.encode(model.predict(model.decoder.read(body))))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Predictor:
    return load(folder)


# ── answers ───────────────────────────────────────────────────────────────────────────────────────


def test_answers_with_probability_decision_and_the_model_that_gave_them(
    service: Service, folder: Path
) -> None:
    digest = bundle.read_manifest(folder)[1]
    status, answer = service.predict({"dataframe_records": ROWS})
    assert status == 200
    probabilities = [expected(row) for row in ROWS]
    assert answer["predictions"] == pytest.approx(probabilities, abs=1e-12)
    assert answer["decisions"] == [CLASSES[p >= THRESHOLD] for p in probabilities]
    assert set(answer["decisions"]) == set(CLASSES)
    assert answer["model"] == {"name": "tiny", "version": "7", "digest": digest}


@pytest.mark.parametrize("shape", [lambda row: [row], lambda row: row], ids=["list", "object"])
def test_takes_plain_records(service: Service, shape: Any) -> None:
    for row in ROWS:
        status, answer = service.predict(shape(row))
        assert status == 200
        assert answer["predictions"] == pytest.approx([expected(row)], abs=1e-12)


def test_answers_many_rows_as_it_answers_them_one_by_one(service: Service) -> None:
    rows = [{**ROWS[i % 4], "age": i % 97} for i in range(2000)]
    assert len(json.dumps(rows)) > INLINE_BODY
    status, answer = service.predict(rows)
    assert status == 200
    assert answer["predictions"] == pytest.approx([expected(r) for r in rows], abs=1e-12)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_serves_other_tasks(tmp_path: Path, task: str) -> None:
    served.make_bundle(tmp_path / "bundle", task)
    given = answer(load(tmp_path / "bundle"), json.dumps(ROWS).encode())
    for got, row in zip(given["predictions"], ROWS, strict=True):
        assert got == pytest.approx(expected(row, task), abs=1e-9)
    if task == "regression":
        assert "decisions" not in given
    else:
        best = [max(zip(p, "abc", strict=True))[1] for p in given["predictions"]]
        assert given["decisions"] == best


def test_tells_health_and_model(service: Service, folder: Path) -> None:
    for path in ("/ping", "/readyz"):
        assert service.ask("GET", path)[:2] == (200, {"status": "ready"})
    assert service.ask("GET", "/livez")[:2] == (200, {"status": "alive"})
    status, card, _ = service.ask("GET", "/model")
    assert status == 200
    assert card["digest"] == bundle.read_manifest(folder)[1] == service.ready["digest"]
    assert (card["name"], card["version"]) == ("tiny", "7")
    assert card["metrics"] == {"roc_auc": 0.75}
    assert card["card"] == served.MODEL_CARD
    assert [column["name"] for column in card["columns"]] == [column.name for column in COLUMNS]


def test_keeps_a_sound_request_id_and_makes_one_otherwise(service: Service) -> None:
    for given_id in ("abc-123", "Root=1-67891233-abcdef012345678912345678"):
        _, _, headers = service.ask("GET", "/ping", headers={"X-Request-Id": given_id})
        assert headers["x-request-id"] == given_id
    made = set()
    for bad in ("", "with space", '{"a":1}', "x" * 200):
        _, _, headers = service.ask("GET", "/ping", headers={"x-request-id": bad})
        made.add(headers["x-request-id"])
        assert len(headers["x-request-id"]) == 32
    assert len(made) == 4


# ── input that is not what the signature asks for ─────────────────────────────────────────────────

LACKS_AGE = {"married": True, "city": MARK}
BAD: dict[str, tuple[Any, int | None, str | None, str]] = {
    "missing field": ([ROW, LACKS_AGE], 1, "age", "required field is missing"),
    "missing field in an object": (LACKS_AGE, None, "age", "required field is missing"),
    "null in a required field": ([{**ROW, "age": None}], 0, "age", "expected number, got null"),
    "text for a number": ([ROW, {**ROW, "income": MARK}], 1, "income", "got string"),
    "text NaN": ([{**ROW, "income": "NaN"}], 0, "income", "expected number or null, got string"),
    "number for a text": ([{**ROW, "city": 424242}], 0, "city", "expected string or null"),
    "number for a boolean": ([{**ROW, "married": 1}], 0, "married", "expected boolean"),
    "boolean for a number": ([{**ROW, "age": True}], 0, "age", "expected number"),
    "list for a number": ([{**ROW, "age": [MARK]}], 0, "age", "expected number, got list"),
    "fraction in one record": ({**ROW, "age": 1.5}, 0, "age", "whole number"),
    "too large a whole number": ({**ROW, "age": 2**53}, 0, "age", "below 2^53"),
    "too small a whole number": ([ROW, {**ROW, "age": -(2**53)}], 1, "age", "below 2^53"),
    "fraction for a whole number": ([ROW, {**ROW, "age": 1.5}], 1, "age", "whole number"),
    "no date": ([ROW, {**ROW, "joined": MARK}], 1, "joined", "expected a date"),
    "date out of range": ([{**ROW, "joined": "2024-02-30"}], 0, "joined", "expected a date"),
    "too large a number": (b'[{"age":1e999,"married":true}]', 0, "age", "Number out of range"),
    "no records": ([], None, None, "no row"),
    "no records in the envelope": ({"dataframe_records": []}, None, None, "no row"),
    "no object as record": ([ROW, MARK], 1, None, "expected object, got string"),
    "no list of records": ({"dataframe_records": ROW}, None, None, "expected list"),
    "records of another kind": ({"dataframe_records": [[1]]}, 0, None, "expected object"),
    "half a form": ({"dataframe_split": {"columns": [MARK]}}, None, "data", "is missing"),
    "scalar": (b"5", None, None, "expected list"),
    "NaN": (b'[{"age":1,"married":true},{"age":NaN}]', 1, "age", "no NaN"),
    "Infinity": (b'[{"age":1,"income":-Infinity,"married":true}]', 0, "income", "no NaN"),
    "NaN elsewhere": (b'[{"age":1,"married":true,"do-not-echo-me":NaN}]', 0, None, "no NaN"),
    "NaN and worse": (b'[{"age":NaN,"married"}]', None, None, "not valid JSON"),
    "empty body": (b"", None, None, "not valid JSON"),
    "half a body": (b'[{"age":1', None, None, "not valid JSON"),
    "two bodies": (b"[] []", None, None, "not valid JSON"),
    "not UTF-8": (b'[{"age":1,"married":true,"city":"\xff\xfe"}]', None, None, "UTF-8"),
    "UTF-16": (json.dumps([ROW]).encode("utf-16"), None, None, "not valid"),
    "half a surrogate": (b'[{"age":1,"married":true,"city":"\\ud800"}]', None, None, "valid JSON"),
    "deep": (b'[{"age":1,"x":' + b"[" * 90_000, None, None, "nested too deeply"),
    "deep objects": (b'{"x":' * 90_000, None, None, "nested too deeply"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_bad_input_by_row_and_field_and_never_repeats_it(
    service: Service, case: str
) -> None:
    value, row, field, message = BAD[case]
    status, answer = service.predict(value)
    assert status == 400
    assert message in answer["error"]
    assert (answer.get("row"), answer.get("field")) == (row, field)
    assert MARK not in json.dumps(answer)
    assert "424242" not in json.dumps(answer)


GOOD: dict[str, tuple[Any, Any]] = {
    "whole numbers as floats": ({**ROW, "age": 44.0}, ROW),
    "integers for numbers": ({**ROW, "income": 3}, {**ROW, "income": 3.0}),
    "extra columns": ({**ROW, "other": {"a": [MARK]}, "id": 9}, ROW),
    "missing optional columns": ({"age": 3, "married": False}, {"age": 3, "married": False}),
    "an unknown category": ({**ROW, "city": "Évora 🚄\u0000"}, {**ROW, "city": None}),
    "a moment": ({**ROW, "joined": "2024-02-29T00:00:00"}, ROW),
    "a moment in another zone": ({**ROW, "joined": "2024-02-28T21:00:00-03:00"}, ROW),
    "a large number": ({**ROW, "income": 1e300}, {**ROW, "income": 700_000.0}),
}


@pytest.mark.parametrize("case", GOOD)
def test_takes_what_means_the_same(service: Service, case: str) -> None:
    sent, same = GOOD[case]
    status, answer = service.predict([sent])
    assert status == 200
    assert answer["predictions"] == pytest.approx([expected(same)], abs=1e-12)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nothing/do-not-echo-me", {}, 404),
        ("GET", "/invocations", {}, 405),
        ("DELETE", "/invocations", JSON, 405),
        ("POST", "/ping", JSON, 405),
        ("POST", "/invocations", {"content-type": "text/xml"}, 415),
        ("POST", "/invocations", {"content-type": "application/json; charset=latin-1"}, 415),
        ("POST", "/invocations", JSON | {"content-encoding": "gzip"}, 415),
        ("POST", "/invocations", JSON, 200),
        ("POST", "/invocations", {"content-type": "application/json; charset=utf-8"}, 200),
        ("POST", "/invocations", {"content-type": "application/vnd.model+json"}, 200),
        ("POST", "/invocations", {}, 200),
    ],
)
def test_answers_each_request_with_its_status(
    service: Service, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    body = None if method == "GET" else json.dumps([{**ROW, "city": MARK}])
    got, answer, sent = service.ask(method, path, body, headers)
    assert got == status
    assert sent["content-type"] == "application/json"
    assert sent["x-request-id"]
    assert ("error" in answer) == (status != 200)
    assert MARK not in json.dumps(answer)
    if status == 405:
        assert sent["allow"] == ("GET, HEAD" if path == "/ping" else "POST")


def test_takes_ten_megabytes_and_refuses_more(service: Service) -> None:
    record = json.dumps(ROW)
    padding = " " * (Limits().body - len(record))
    assert service.predict((record + padding).encode())[0] == 200
    for size in (1, 30 * 1024**2):  # a client hears of it even if it has much to send after
        status, answer = service.predict((record + padding + " " * size).encode())
        assert status == 413
        assert "10 MB" in answer["error"]
    chunks = iter([record.encode(), *[b" " * 1024**2] * 11])  # no content-length to tell it by
    assert service.ask("POST", "/invocations", chunks, JSON)[0] == 413  # type: ignore[arg-type]
    assert service.predict(ROW)[0] == 200


def test_survives_what_is_not_http(service: Service) -> None:
    for noise in (b"\x00\xff" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /invocations HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(noise)
    assert service.predict(ROW)[0] == 200


@given(body=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(body=b"\xef\xbb\xbf[]")
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_answered_or_refused(tiny: Predictor, body: bytes) -> None:
    with pytest.raises(BadInputError):
        answer(tiny, body)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
records = st.dictionaries(
    st.sampled_from([column.name for column in COLUMNS]) | st.text(max_size=5), values
)


@given(value=st.lists(records, max_size=3) | records | values)
@settings(max_examples=300, deadline=None)
def test_any_json_is_answered_or_refused(tiny: Predictor, value: Any) -> None:
    try:
        given = answer(tiny, json.dumps(value).encode())
    except BadInputError:
        return
    assert all(p is None or 0 <= p <= 1 for p in given["predictions"])


@given(
    row=st.fixed_dictionaries(
        {"age": st.integers(-1000, 1000), "married": st.booleans()},
        optional={
            "income": st.none() | st.floats(-1e5, 1e5),
            "city": st.none() | st.text() | st.sampled_from(["Porto", "Lisboa"]),
            "joined": st.none() | st.dates().map(str),
        },
    )
)
@settings(max_examples=200, deadline=None)
def test_every_sound_record_gets_the_models_number(tiny: Predictor, row: Any) -> None:
    (probability,) = answer(tiny, msgspec.json.encode(row))["predictions"]
    assert math.isclose(probability, expected(row), rel_tol=1e-9, abs_tol=1e-12)


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    names = ['he said "city"', "age\n(years)", "back\\slash", "", "`joined` $[0].x"]
    columns = [
        msgspec.structs.replace(column, name=name)
        for column, name in zip(COLUMNS, names, strict=True)
    ]
    served.make_bundle(tmp_path / "bundle", columns=columns)
    model = load(tmp_path / "bundle")
    renamed = dict(zip([column.name for column in COLUMNS], names, strict=True))
    rows = [{renamed[name]: value for name, value in row.items()} for row in ROWS]
    for body in (rows, {"dataframe_records": rows}):
        given = answer(model, json.dumps(body).encode())
        assert given["predictions"] == pytest.approx([expected(r) for r in ROWS], abs=1e-12)
    for name in names[:3]:
        with pytest.raises(BadInputError) as caught:
            answer(model, json.dumps([{**rows[0], name: []}]).encode())
        assert (caught.value.row, caught.value.field) == (0, name)


def test_a_row_that_the_model_refuses_is_bad_input(tmp_path: Path) -> None:
    served.make_bundle(tmp_path / "bundle", strict_city=True)
    model = load(tmp_path / "bundle")
    for before in (0, 1, 6, 1000):
        rows = [ROW] * before + [{**ROW, "city": MARK}, ROW, {**ROW, "city": "another"}]
        with pytest.raises(BadInputError, match="'city' holds a category") as caught:
            answer(model, json.dumps(rows).encode())
        assert (caught.value.row, caught.value.field) == (before, "city")
        assert MARK not in str(caught.value)


def test_a_fault_of_ours_is_logged_without_the_data(
    tiny: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(body: bytes) -> Any:
        raise ValueError(f"cannot handle {body!r}")

    app = App(tiny)
    request = Request(b"POST", b"/invocations", {b"x-request-id": b"r1"})
    app.identify(request)
    assert app.admit(request) is None
    request.read, request.body = broken, json.dumps({"city": MARK}).encode()
    response = app.answer(request)
    assert response.status == 500
    assert json.loads(response.body) == {"error": "internal error"}
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["request_id"]) == ("error", "r1")
    assert line["error"].startswith("ValueError at ")
    assert MARK not in json.dumps(line)


# ── which model is served ─────────────────────────────────────────────────────────────────────────


def test_fetches_from_a_registry_only_what_it_needs(folder: Path, tmp_path: Path) -> None:
    registry = open_registry(str(tmp_path / "registry"))
    digest = registry.put_bundle(folder)
    archive = registry.read_manifest(digest).files["model.joblib"]
    (tmp_path / "registry/blobs/sha256" / archive.sha256.removeprefix("sha256:")).unlink()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with running(
        TRILHO_MODEL_URI=tmp_path / "registry",
        TRILHO_MODEL_DIGEST=digest,
        TMPDIR=temporary,
    ) as service:
        assert service.ready["digest"] == digest
        assert list(temporary.iterdir()) == []  # nothing is left beside what is in memory
        assert service.ask("GET", "/model")[1]["card"] == served.MODEL_CARD
        assert service.predict(ROWS)[0] == 200


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("signature.json", "registry"),
        ("golden.json", "folder"),
        ("compiled/plan.json", "folder"),
        ("compiled/arrays.npz", "registry"),
    ],
)
def test_does_not_start_on_a_changed_byte(
    folder: Path, tmp_path: Path, name: str, where: str
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(folder, copy)
    digest = bundle.read_manifest(copy)[1]
    target = copy / name
    variables: dict[str, object] = {"TRILHO_MODEL_DIR": copy}
    if where == "registry":
        registry = open_registry(str(tmp_path / "registry"))
        registry.put_bundle(copy)
        entry = registry.read_manifest(digest).files[name]
        target = tmp_path / "registry/blobs/sha256" / entry.sha256.removeprefix("sha256:")
        variables = {"TRILHO_MODEL_URI": tmp_path / "registry", "TRILHO_MODEL_DIGEST": digest}
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.chmod(0o644)
    target.write_bytes(data)
    code, line = served.fail(**variables)
    assert code == 3
    assert line["event"] == "failed"
    assert name in line["error"]


def test_does_not_start_on_another_bundle_than_the_one_named(folder: Path) -> None:
    code, line = served.fail(TRILHO_MODEL_DIR=folder, TRILHO_MODEL_DIGEST="sha256:" + "a" * 64)
    assert code == 3
    assert "expected sha256:aaa" in line["error"]


def test_does_not_start_where_golden_rows_come_out_differently(tmp_path: Path) -> None:
    wrong = [expected(row) for row in ROWS]
    wrong[2] += 1e-6
    served.make_bundle(tmp_path / "bundle", golden=wrong)
    code, line = served.fail(TRILHO_MODEL_DIR=tmp_path / "bundle")
    assert code == 3
    assert line["error"].startswith("Golden row 2 gives")
    assert "numpy" in line["hint"]


@pytest.mark.parametrize("golden", [[0.5], [[0.5, 0.5]] * 4, [None] * 4, []])
def test_does_not_start_on_golden_rows_that_prove_nothing(
    tmp_path: Path, golden: list[Any]
) -> None:
    served.make_bundle(tmp_path / "bundle", golden=golden)
    with pytest.raises(IntegrityError, match=r"(?i)golden row"):
        load(tmp_path / "bundle")


def test_needs_golden_rows_to_start(tiny: Predictor) -> None:
    with pytest.raises(IntegrityError, match="no golden rows"):
        tiny.check(bundle.Golden(tolerance=1.0, rows=[], expected=[]))


def test_a_bundle_of_ours_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    served.make_bundle(tmp_path / "bundle")
    (tmp_path / "bundle/signature.json").write_text("{}")
    (tmp_path / "bundle/manifest.json").unlink()
    bundle.seal(tmp_path / "bundle", served.manifest("binary", "compiled"))
    code, line = served.fail(TRILHO_MODEL_DIR=tmp_path / "bundle")
    assert (code, line["event"]) == (1, "failed")
    assert "ValidationError at " in line["error"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TRILHO_MODEL_URI": "s3://b/p"}, "TRILHO_MODEL_DIGEST"),
        ({"TRILHO_MODEL_URI": "s3://b/p", "TRILHO_MODEL_DIGEST": "latest"}, "sha256:"),
        ({"TRILHO_MODEL_URI": "s3://b/p", "TRILHO_MODEL_DIR": "/x"}, "set one of"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_PORT": "http"}, "TRILHO_PORT"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_PORT": "80.5"}, "TRILHO_PORT"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_PORT": "65536"}, "TRILHO_PORT"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_DRAIN_SECONDS": "nan"}, "TRILHO_DRAIN_SECONDS"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_WORKERS": "0"}, "a whole number from 1 to 256"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_WORKERS": "1.5"}, "TRILHO_WORKERS"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_MAX_BODY_MB": "0"}, "TRILHO_MAX_BODY_MB"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_MAX_ROWS": "many"}, "TRILHO_MAX_ROWS"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_MAX_CONNECTIONS": "-1"}, "TRILHO_MAX_CONNECTIONS"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_QUEUE": "0"}, "TRILHO_QUEUE must"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_QUEUE_SECONDS": "0"}, "TRILHO_QUEUE_SECONDS"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_REQUEST_SECONDS": "inf"}, "TRILHO_REQUEST_SECONDS"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_LOG_REQUESTS": "some"}, "all, errors or none"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_METRICS": "1"}, "true or false, not '1'"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_EMF": "N", "TRILHO_METRICS": "false"}, "TRILHO_EMF"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_API_KEY": " , "}, "TRILHO_API_KEY holds no key"),
        (
            {"TRILHO_MODEL_DIR": "/x", "TRILHO_API_KEY": "do-not echo-me"},
            "holds a key with a space",
        ),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_API_KEY_FILE": "/nowhere"}, "No such file"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_API_KEY_FILE": "/dev/null"}, "holds no key"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_API_KEY_FILE": "a", "TRILHO_API_KEY": "b"}, "one of"),
    ],
)
def test_says_which_setting_is_wrong(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        service_settings.read(variables)
    assert "echo-me" not in str(caught.value)


def test_reads_its_settings() -> None:
    """Each variable sets what it says, and every one of them stands in the usage text."""
    given = {
        "TRILHO_MODEL_DIR": "/x",
        "TRILHO_WORKERS": "3",
        "TRILHO_MAX_BODY_MB": "0.5",
        "TRILHO_MAX_ROWS": "7",
        "TRILHO_MAX_CONNECTIONS": "8",
        "TRILHO_QUEUE": "9",
        "TRILHO_QUEUE_SECONDS": "0.25",
        "TRILHO_REQUEST_SECONDS": "12",
        "TRILHO_LOG_REQUESTS": "errors",
        "TRILHO_EMF": "Mine",
        "TRILHO_EMF_SECONDS": "5",
        "TRILHO_API_KEY": "one, two",
    }
    read = service_settings.read(given)
    assert read.limits == Limits(
        body=512 * 1024,
        rows=7,
        connections=8,
        queue=9,
        queue_seconds=0.25,
        receive_seconds=12,
        send_seconds=12,
    )
    assert (read.workers, read.log_requests, read.keys) == (3, "errors", ("one", "two"))
    assert (read.metrics, read.emf, read.emf_seconds) == (True, "Mine", 5)
    for name in given:
        assert f"\n  {name} " in service_settings.USAGE
        assert f"`{name}`" in (Path(__file__).parents[2] / "docs/serving.md").read_text()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "TRILHO_MODEL_URI and TRILHO_MODEL_DIR"),
        ({"TRILHO_MODEL_DIR": "/nowhere"}, "/nowhere"),
        ({"TRILHO_MODEL_DIR": "/x", "TRILHO_HOST": "300.0.0.1"}, "Cannot listen"),
    ],
)
def test_does_not_start_on_wrong_settings(variables: dict[str, str], message: str) -> None:
    code, line = served.fail(**variables)
    assert (code, line["event"]) == (2, "failed")
    assert message in line["error"]


def test_an_empty_variable_counts_as_absent() -> None:
    read = service_settings.read({"TRILHO_MODEL_DIR": "/x", "TRILHO_MODEL_URI": "", "PATH": "/"})
    defaults = (read.host, read.port, read.drain_seconds, read.version)
    assert (read.folder, read.uri, *defaults) == (Path("/x"), None, "0.0.0.0", 8080, 5.0, None)
    with pytest.raises(UsageError):
        service_settings.read({"TRILHO_MODEL_DIR": ""})


def test_says_that_the_port_is_taken(service: Service, folder: Path) -> None:
    code, line = served.fail(TRILHO_MODEL_DIR=folder, TRILHO_PORT=service.port)
    assert code == 2
    assert str(service.port) in line["error"]
    assert service.predict(ROW)[0] == 200


def test_refuses_arguments_that_it_does_not_know() -> None:
    process = served.start("train")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "Usage: python -m trilho.serving" in err


# ── what the service is made of ───────────────────────────────────────────────────────────────────


def test_the_service_imports_nothing_of_the_training_stack(folder: Path) -> None:
    code = """
import sys
from pathlib import Path
import trilho.serving.server, trilho.registry, trilho.storage.s3
from trilho.serving import settings, source, predictor
with source.fetch(settings.Settings(folder=Path(sys.argv[1]))) as (folder, manifest, digest):
    predictor.load(folder, manifest, digest, None)
heavy = {"pandas", "sklearn", "pandera", "joblib", "pydantic", "typer", "rich", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


@pytest.fixture(scope="module")
def serving_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of requirements-serve.txt alone; the path of its interpreter."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    root = Path(__file__).parents[2]
    place = tmp_path_factory.mktemp("environment") / "venv"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([uv, "venv", "-q", "--python", version, place], check=True, timeout=120)
    python = place / "bin/python"
    lock = root / "requirements-serve.txt"
    sync = [uv, "pip", "sync", "-q", "--require-hashes", "--python", python, lock]
    done = subprocess.run(sync, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"no package registry: {done.stderr.strip()[-300:]}")
    return python


def test_runs_in_an_environment_of_its_own_lock_alone(
    serving_environment: Path, folder: Path, tmp_path: Path
) -> None:
    registry = open_registry(str(tmp_path / "registry"))
    digest = registry.put_bundle(folder)
    source = Path(__file__).parents[2] / "src"
    with running(
        serving_environment,
        PYTHONPATH=source,
        TRILHO_MODEL_URI=tmp_path / "registry",
        TRILHO_MODEL_DIGEST=digest,
    ) as service:
        status, answer = service.predict(ROWS)
        assert status == 200
        assert answer["predictions"] == pytest.approx([expected(r) for r in ROWS], abs=1e-12)
        assert service.stop(signal.SIGINT)[0] == 0


def test_names_the_image_that_a_model_needs(serving_environment: Path, tmp_path: Path) -> None:
    served.make_bundle(tmp_path / "bundle", serving="sklearn")
    code, line = served.fail(
        python=serving_environment,
        PYTHONPATH=Path(__file__).parents[2] / "src",
        TRILHO_MODEL_DIR=tmp_path / "bundle",
    )
    assert code == 2
    assert "scikit-learn" in line["error"]
    assert "--target sklearn" in line["hint"]


def test_serves_a_model_that_only_scikit_learn_can(tmp_path: Path) -> None:
    import joblib
    import numpy as np
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, 200),
            "married": rng.random(200) < 0.5,
            "city": pd.Series(rng.choice(["Porto", "Lisboa"], 200), dtype="str"),
        }
    )
    y = np.where(frame["age"] + 20 * frame["married"] > 55, "yes", "no")
    model = make_pipeline(
        ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough"),
        LogisticRegression(max_iter=1000),
    ).fit(frame, y)
    folder = tmp_path / "bundle"
    columns = [
        Column(name="city", kind="string"),
        Column(name="age", kind="integer"),
        Column(name="married", kind="boolean"),
    ]
    rows = json.loads(frame.head(5).to_json(orient="records"))
    scores = model.predict_proba(frame.head(5))[:, 1].tolist()
    folder.mkdir()
    joblib.dump(model, folder / "model.joblib")
    signature = bundle.Signature(
        columns=columns,
        target="y",
        task="binary",
        classes=["no", "yes"],
        positive="yes",
        threshold=0.5,
    )
    golden = bundle.Golden(tolerance=1e-9, rows=rows, expected=scores)
    (folder / "signature.json").write_bytes(bundle.canonical(signature))
    (folder / "golden.json").write_bytes(bundle.canonical(golden))
    bundle.seal(folder, served.manifest("binary", "sklearn"))

    with running(TRILHO_MODEL_DIR=folder) as service:
        status, answer = service.predict(rows)
        assert status == 200
        assert answer["predictions"] == pytest.approx(scores, abs=1e-12)
        status, answer = service.predict([*rows, {**rows[0], "city": MARK}])
        assert status == 400
        assert answer == {"error": "The model cannot take one of the rows.", "row": 5}

    data = bytearray((folder / "model.joblib").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.joblib").write_bytes(data)
    code, line = served.fail(TRILHO_MODEL_DIR=folder)
    assert code == 3
    assert "model.joblib was changed" in line["error"]
