"""What the service counts and times, and how it tells."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import served
from served import CLASSES, ROW, ROWS, Service, expected, running
from waiting import eventually
from wire import Wire, get, post

from trilho import bundle
from trilho.serving import emf, predictor
from trilho.serving.app import App
from trilho.serving.measures import OTHER, PREDICTING, ROUTES, SECONDS, STATUSES, Measures
from trilho.serving.messages import KINDS
from trilho.serving.metrics import Registry, exposition

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{(?P<labels>[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*)\})?'
    r" (?P<value>-?(?:[0-9.]+(?:e[+-]?[0-9]+)?|inf|nan))"
)


def samples(text: str) -> dict[str, float]:
    """Parse Prometheus's text format, strictly: each sample under its own family's head."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    helped: set[str] = set()
    family, kind = "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in helped
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family
            assert (kind == "counter") == name.endswith("_total")
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert match["name"] in [family + end for end in ends]
            key = line.rpartition(" ")[0]
            assert key not in found
            found[key] = float(match["value"])
    for key in found:  # a histogram's buckets rise up to its count
        if 'le="+Inf"' in key:
            stem = re.sub(r',?le="\+Inf"', "", key).replace("_bucket", "_count").replace("{}", "")
            assert found[key] == found[stem]
    return found


def read(service: Service) -> dict[str, float]:
    status, body, headers = service.fetch("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return samples(body.decode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metrics") / "bundle"
    served.make_bundle(path)
    return path


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_MODEL_VERSION="7") as it:
        yield it


def test_counts_what_was_asked_and_answered(service: Service) -> None:
    for path, status in (("/ping", 200), ("/nothing", 404), ("/model?x", 200)):
        assert service.ask("GET", path)[0] == status
    for body, status in (([ROW], 200), ([{}], 400), (b"{", 400), ([{**ROW, "age": "x"}], 400)):
        assert service.predict(body)[0] == status
    service.ask("POST", "/invocations", b"x", {"content-type": "a/b"})
    service.ask("POST", "/ping")
    found = read(service)
    requests = {
        tuple(re.findall(r'"(.*?)"', key)): value
        for key, value in found.items()
        if key.startswith("trilho_requests_total") and value
    }
    assert requests == {
        ("/ping", "200"): 1,
        ("/ping", "405"): 1,
        ("/model", "200"): 1,
        ("/invocations", "200"): 1,
        ("/invocations", "400"): 3,
        ("/invocations", "415"): 1,
        ("other", "404"): 1,
    }
    errors = {
        re.findall(r'"(.*?)"', key)[0]: value
        for key, value in found.items()
        if key.startswith("trilho_errors_total") and value
    }
    one = ("not_found", "missing_field", "body", "value", "media_type", "method")
    assert errors == dict.fromkeys(one, 1)
    assert found['trilho_request_seconds_count{route="/invocations"}'] == 5
    assert 0 < found['trilho_request_seconds_sum{route="/invocations"}'] < 5
    assert found["trilho_queue_seconds_count"] == 4
    identity = f'name="tiny",version="7",digest="{service.ready["digest"]}"'
    assert found[f"trilho_model_info{{{identity}}}"] == 1


@pytest.mark.parametrize("path", ["/invocations", "/v2/models/tiny/infer"])
@pytest.mark.parametrize("times", [1, 500], ids=["few", "many"])
def test_counts_what_was_predicted(service: Service, path: str, times: int) -> None:
    rows = [{name: row.get(name) for name in ROW} for row in ROWS] * times
    body: Any = rows
    if "infer" in path:
        kinds = {"city": "BYTES", "age": "INT64", "income": "FP64", "married": "BOOL"}
        body = {
            "inputs": [
                {
                    "name": name,
                    "shape": [len(rows)],
                    "datatype": kinds.get(name, "BYTES"),
                    "data": [row[name] for row in rows],
                }
                for name in ROW
            ]
        }
    assert service.ask("POST", path, json.dumps(body))[0] == 200
    found = read(service)
    scores = [expected(row) for row in ROWS]
    assert found["trilho_rows_total"] == len(rows)
    assert (found["trilho_request_rows_count"], found["trilho_request_rows_sum"]) == (1, len(rows))
    assert found["trilho_score_count"] == len(rows)
    assert found["trilho_score_sum"] == pytest.approx(sum(scores) * times)
    for edge in (0.1, 0.5, 0.6, 0.95, 1):
        wanted = sum(score <= edge for score in scores) * times
        assert found[f'trilho_score_bucket{{le="{edge}"}}'] == wanted
    for label in CLASSES:
        wanted = sum(CLASSES[score >= 0.6] == label for score in scores) * times
        assert found[f'trilho_decisions_total{{decision="{label}"}}'] == wanted
    missing = {"city": 1, "income": 2, "joined": 2}
    for name, count in missing.items():
        assert found[f'trilho_input_missing_total{{column="{name}"}}'] == count * times
    assert not any("age" in key for key in found)  # it can never be missing
    assert found['trilho_input_unknown_total{column="city"}'] == times


def test_one_row_is_counted_as_many_are(service: Service) -> None:
    for row in ROWS:
        assert service.predict(row)[0] == 200
    singly = read(service)
    assert service.predict(ROWS)[0] == 200
    both = read(service)
    for key in singly:
        if re.match(r"trilho_(score|decisions|input|rows)", key):
            assert both[key] == pytest.approx(2 * singly[key]), key


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_scores_of_other_tasks(tmp_path: Path, task: str) -> None:
    served.make_bundle(tmp_path / "bundle", task)
    with running(TRILHO_MODEL_DIR=tmp_path / "bundle") as service:
        assert service.predict(ROWS)[0] == 200
        assert service.predict(ROWS[0])[0] == 200
        found = read(service)
    scores = [expected(row, task) for row in [*ROWS, ROWS[0]]]
    if task == "multiclass":
        scores = [max(score) for score in scores]
        assert sum(v for k, v in found.items() if "decisions" in k) == 5
    assert found["trilho_score_count"] == 5
    assert found["trilho_score_sum"] == pytest.approx(sum(scores))
    # the golden rows are all within its edges
    edges = [float(e) for e in re.findall(r'trilho_score_bucket\{le="([^+].*?)"', "\n".join(found))]
    assert min(scores) >= edges[0] - 1e-3
    assert max(scores) <= edges[-1] + 1e-3
    assert len(edges) >= 20


def test_tells_of_the_process(service: Service) -> None:
    found = read(service)
    assert 10e6 < found['process_resident_memory_bytes{worker="0"}'] < 300e6
    assert found['process_cpu_seconds_total{worker="0"}'] > 0
    assert found['process_open_fds{worker="0"}'] >= 5
    assert found["trilho_ready_workers"] == 1
    with Wire(service.port) as first, Wire(service.port) as second:
        for wire in (first, second):
            wire.send(get("/ping"))
            wire.reply()
        assert read(service)["trilho_connections"] == 3


def test_adds_up_over_workers(folder: Path) -> None:
    """Whichever worker is asked; and what a dead one counted is not lost."""
    with running(TRILHO_MODEL_DIR=folder, TRILHO_WORKERS="3") as service:
        wires = [Wire(service.port) for _ in range(6)]
        for wire in wires:
            for _ in range(10):
                wire.send(post(json.dumps([ROW]).encode()))
                assert wire.reply().status == 200
        eventually(lambda: read(service)["trilho_rows_total"] == 60)  # counted after the answer
        assert {read(service)["trilho_rows_total"] for _ in range(10)} == {60}
        found = read(service)
        assert found["trilho_ready_workers"] == 3
        processes = [k for k in found if k.startswith("process_cpu_seconds_total")]
        assert len(processes) == 3
        children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
        victim = int(children.read_text().split()[0])
        os.kill(victim, signal.SIGKILL)
        eventually(
            lambda: (
                len(children.read_text().split()) == 3 and str(victim) not in children.read_text()
            )
        )
        assert service.predict(ROW)[0] == 200
        eventually(lambda: read(service)["trilho_rows_total"] == 61)
        for wire in wires:
            wire.socket.close()


def test_can_be_switched_off(folder: Path) -> None:
    with running(
        TRILHO_MODEL_DIR=folder, TRILHO_METRICS="false", TRILHO_LOG_REQUESTS="none"
    ) as service:
        assert service.predict(ROWS)[0] == 200
        assert service.ask("GET", "/metrics")[0] == 404
        assert "/metrics" not in service.ask("GET", "/openapi.json")[1]["paths"]
        code, log = service.stop()
    assert (code, [line["event"] for line in log]) == (0, ["stopped"])


# ── the log of requests ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", ["all", "errors"])
def test_logs_requests_by_their_id(folder: Path, which: str) -> None:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_LOG_REQUESTS=which) as service:
        headers = {"x-request-id": "abc", "content-type": "application/json"}
        service.ask("POST", "/invocations", json.dumps(ROWS), headers)
        service.ask("POST", "/invocations", b"do-not-log-me", headers | {"x-request-id": "def"})
        service.ask("GET", "/do-not-log-me?do-not-log-me", None, {"x-request-id": "ghi"})
        service.ask("GET", "/ping")
        with Wire(service.port) as wire:
            wire.send(b"do-not-log-me\r\n\r\n")
            assert wire.reply().status == 400
        _, log = service.stop()
    lines = [line for line in log if line["event"] == "request"]
    wanted = [
        ("abc", "POST", "/invocations", 200, 4),
        ("def", "POST", "/invocations", 400, 0),
        ("ghi", "GET", "other", 404, 0),
        ("", "", "other", 400, 0),
    ]
    told = [(x["request_id"], x["method"], x["route"], x["status"], x["rows"]) for x in lines]
    assert len(told.pop()[0]) == 32
    assert told == wanted[:-1] if which == "all" else told == wanted[1:-1]
    assert all(0 <= line["milliseconds"] < 5000 and line["time"].endswith("Z") for line in lines)
    assert "do-not-log-me" not in json.dumps(log)


def test_a_log_that_nobody_reads_holds_nobody_up(folder: Path) -> None:
    """The pipe takes 64 kB, and here nobody empties it: some 400 lines."""
    with running(TRILHO_MODEL_DIR=folder) as service, Wire(service.port) as wire:
        for _ in range(3000):
            wire.send(post(json.dumps([ROW]).encode()))
            assert wire.reply().status == 200
        started = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        service.process.wait(timeout=20)
        assert time.monotonic() - started < 10


# ── EMF ───────────────────────────────────────────────────────────────────────────────────────────


def check_emf(record: dict[str, Any]) -> None:
    """As CloudWatch's specification of the format has it."""
    head = record["_aws"]
    assert abs(head["Timestamp"] / 1000 - time.time()) < 120
    for directive in head["CloudWatchMetrics"]:
        assert directive["Namespace"]
        assert 0 < len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert metric["Unit"] in ("Count", "Milliseconds")
            assert type(record[metric["Name"]]) in (int, float)
        for dimensions in directive["Dimensions"]:
            assert len(dimensions) <= 30
            assert all(isinstance(record[name], str) and record[name] for name in dimensions)


@pytest.mark.parametrize("workers", [1, 2])
def test_writes_metrics_for_cloudwatch(folder: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    with open(out, "wb") as stdout, running(
        stdout=stdout,
        TRILHO_MODEL_DIR=folder,
        TRILHO_MODEL_VERSION="7",
        TRILHO_EMF="Models/Credit",
        TRILHO_EMF_SECONDS="0.5",
        TRILHO_WORKERS=workers,
    ) as service:  # fmt: skip
        for _ in range(20):
            assert service.predict(ROWS)[0] == 200
        assert service.predict(b"{")[0] == 400
        eventually(
            lambda: sum(json.loads(line)["Requests"] for line in out.read_text().splitlines()) >= 21
        )
        assert service.predict(ROW)[0] == 200
        assert service.stop()[0] == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for line in lines:
        check_emf(line)
        assert (line["Model"], line["Version"]) == ("tiny", "7")
        assert line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Models/Credit"
        assert ("LatencyP99" in line) == (line["Requests"] > 0)
    sums = {
        name: sum(line[name] for line in lines) for name in ("Requests", "Rows", "ClientErrors")
    }
    assert sums == {"Requests": 22, "Rows": 81, "ClientErrors": 1}  # the last line, too
    assert sum(line["MissingValues"] for line in lines) == 20 * 5
    assert sum(line["UnknownCategories"] for line in lines) == 20
    latency = next(line for line in lines if line["Requests"])
    assert 0 < latency["LatencyP50"] <= latency["LatencyP99"] < 1000


def test_quantiles_of_a_histogram() -> None:
    edges = (1.0, 2.0, 4.0)
    buckets = np.array([0.0, 10.0, 10.0, 0.0])
    assert emf.quantile(edges, buckets, 0.5) == 2.0
    assert emf.quantile(edges, buckets, 0.25) == 1.5
    assert emf.quantile(edges, buckets, 0.75) == 3.0
    assert emf.quantile(edges, np.array([0, 0, 0, 5.0]), 0.5) == 4.0  # at least so much
    assert emf.quantile(edges, np.array([8.0, 0, 0, 0]), 0.5) == 0.5


# ── the parts ─────────────────────────────────────────────────────────────────────────────────────


def test_text_is_escaped() -> None:
    registry = Registry()
    odd = 'a"b\\c\nd'
    counter = registry.counter("x_total", "Help\nof \\.", column=[odd, "plain"])
    histogram = registry.histogram("h", "H.", (0.5, 1.0), route=["a"])
    registry.open(2)
    registry.use(1)
    registry.cells[counter.cell(odd)] += 3
    registry.use(0)
    registry.cells[counter.cell(odd)] += 2**40
    for i, number in enumerate((1, 2, 3)):
        registry.cells[histogram.cell("a") + i] += number
    text = "".join(exposition(registry))
    assert "# HELP x_total Help\\nof \\\\.\n" in text
    found = samples(text)
    assert found['x_total{column="a\\"b\\\\c\\nd"}'] == 2**40 + 3
    assert [found[f'h_bucket{{route="a",le="{le}"}}'] for le in ("0.5", "1", "+Inf")] == [1, 3, 6]


def test_knows_all_routes_kinds_and_statuses(folder: Path) -> None:
    """A series that is not defined could not be counted: that would be an error in the hot path."""
    model = predictor.load(folder, *bundle.verify(folder), version="7")
    measures = Measures(model)
    app = App(model, measures=measures)
    assert {route.name for route in app.routes.values()} == {*PREDICTING, *ROUTES}
    assert OTHER not in ROUTES
    source = Path(predictor.__file__).parent
    modules = ("app", "auth", "columns", "connection", "decode", "inference", "media", "messages")
    written = "".join(
        (source / f"{name}.py").read_text() for name in (*modules, "tables", "parquet")
    )
    for status, kind in re.findall(r"ProblemError\(\s*(\d{3}),\s*\"(\w+)\"", written):
        assert status in STATUSES
        assert kind in KINDS
    assert set(re.findall(r"kind=\"(\w+)\"", written)) - {"id"} <= set(KINDS)
    assert list(SECONDS) == sorted(SECONDS)


def test_a_score_that_is_no_number_breaks_no_metric(folder: Path) -> None:
    model = predictor.load(folder, *bundle.verify(folder), version=None)
    measures = Measures(model)
    measures.registry.open(1)
    measures.registry.use(0)
    for rows in (ROWS[:1], ROWS):
        prediction = model.predict(model.decoder.read(json.dumps(rows).encode()))
        broken = prediction._replace(
            scores=np.full(len(rows), math.nan), decisions=[None] * len(rows)
        )
        measures.predicted(broken, [len(rows)])
    found = samples(measures.text().decode())
    assert (found["trilho_rows_total"], found["trilho_score_count"]) == (5, 0)
    assert found["trilho_score_sum"] == 0
