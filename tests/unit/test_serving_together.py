"""Requests that wait at the same time are answered together, and nobody can tell by the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import served
from hypothesis import given, settings
from hypothesis import strategies as st
from served import ROW, ROWS

from trilho import bundle
from trilho.errors import DataError
from trilho.serving import predictor, work
from trilho.serving.app import App, Finished
from trilho.serving.measures import Measures
from trilho.serving.messages import Request, Response
from trilho.serving.predictor import Predictor
from trilho.serving.work import TOGETHER, Work

STRICT = "nowhere"  # the model of `strict` refuses this city


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("together") / "bundle"
    served.make_bundle(folder, strict_city=True, id="who")
    return predictor.load(folder, *bundle.verify(folder), version="7")


@pytest.fixture
def calls(strict: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the model was asked for, each time."""
    found: list[int] = []
    predict = strict.model.predict

    def counted(columns: dict[str, Any]) -> Any:
        found.append(len(columns["age"]))
        return predict(columns)

    monkeypatch.setattr(strict.model, "predict", counted)
    return found


def ask(app: App, body: bytes, kind: bytes | None = b"application/json", path: str = "") -> Request:
    headers = {} if kind is None else {b"content-type": kind}
    request = Request(b"POST", path.encode() or b"/invocations", headers)
    app.identify(request)
    assert app.admit(request) is None
    request.body = body
    return request


def bodies(random: np.random.Generator) -> dict[str, tuple[bytes, bytes | None, str]]:
    """One request of each sort, with numbers of its own."""

    def row(**changed: Any) -> dict[str, Any]:
        numbers = {"age": int(random.integers(99)), "income": float(random.normal(0, 1000))}
        return ROW | numbers | changed

    def body(value: Any) -> bytes:
        return json.dumps(value).encode()

    def split(names: list[str]) -> bytes:
        data = [[row(who="x").get(name) for name in names] for _ in range(2)]
        return body({"dataframe_split": {"columns": names, "data": data}})

    json_kind, csv = b"application/json", b"text/csv"
    v2 = body(
        {
            "inputs": [
                {"name": name, "shape": [1], "datatype": kind, "data": [value]}
                for name, kind, value in [("age", "INT64", 5), ("married", "BOOL", True)]
            ]
        }
    )
    return {
        "one": (body(row()), json_kind, ""),
        "no type": (body([row()]), None, ""),
        "three": (body([row(), row(income=None), row(joined=None)]), json_kind, ""),
        "named": (body([row(who="a"), row(who=17)]), json_kind, ""),
        "records": (body({"dataframe_records": [row(), row()]}), json_kind, ""),
        "split": (split([*ROW]), json_kind, ""),
        "split with ids": (split([*ROW, "who"]), json_kind, ""),
        "tensors": (body({"inputs": {k: [v, v] for k, v in row().items()}}), json_kind, ""),
        "csv": (b"age,married,city\n3,true,Porto\n4,false,Lisboa\n", csv, ""),
        "infer": (v2, json_kind, "/v2/models/tiny/infer"),
        "refused": (body([row(), row(city=STRICT)]), json_kind, ""),
        "missing": (body([row(), {"age": 1}]), json_kind, ""),
        "not whole": (body([row(), row(), row(age=1.5)]), json_kind, ""),
        "no date": (body(row(joined="soon")), json_kind, ""),
        "no rows": (b"[]", json_kind, ""),
        "no json": (b'{"age":', json_kind, ""),
        "too many": (b"[" + b"{}," * 200_000 + b"{}]", json_kind, ""),
    }


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    names=st.lists(st.sampled_from(list(bodies(np.random.default_rng(0)))), min_size=2, max_size=9),
)
def test_everybody_gets_the_answer_that_he_would_get_alone(
    strict: Predictor, seed: int, names: list[str]
) -> None:
    random = np.random.default_rng(seed)
    sorts = [bodies(random)[name] for name in names]
    app = App(strict)
    alone = [app.answer(ask(app, *sort)) for sort in sorts]
    requests = [ask(app, *sort) for sort in sorts]
    assert app.answer_together(requests) == alone
    for request, response in zip(requests, alone, strict=True):
        assert (request.share is not None) == (response.status == 200)


def test_one_prediction_for_all(strict: Predictor, calls: list[int]) -> None:
    app = App(strict)
    sorts = bodies(np.random.default_rng(0))
    wanted = ["one", "no type", "three", "split with ids", "no json", "records"]
    responses = app.answer_together([ask(app, *sorts[name]) for name in wanted])
    assert calls == [1 + 1 + 3 + 2 + 2]
    assert [response.status for response in responses] == [200, 200, 200, 200, 400, 200]


def test_a_request_without_ids_takes_nobody_elses(strict: Predictor, calls: list[int]) -> None:
    app = App(strict)
    sorts = bodies(np.random.default_rng(0))
    for names in (["split", "named"], ["named", "split"]):
        requests = [ask(app, *sorts[name]) for name in names]
        app.answer_together(requests)
        shares = {name: request.share for name, request in zip(names, requests, strict=True)}
        assert shares["named"] is not None
        assert shares["named"].prediction.batch.ids == ["a", 17]
    assert calls == [2, 2] * 2


def test_what_the_model_refuses_for_one_is_not_refused_for_the_others(
    strict: Predictor, calls: list[int]
) -> None:
    app = App(strict)
    sorts = bodies(np.random.default_rng(0))
    responses = app.answer_together([ask(app, *sorts[name]) for name in ("one", "refused", "one")])
    assert [response.status for response in responses] == [200, 400, 200]
    assert json.loads(responses[1].body)["row"] == 1
    assert calls[0] == 4


def test_a_fault_of_ours_is_the_one_requests_that_it_is_due_to(
    strict: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = strict.model.predict

    def odd(columns: dict[str, Any]) -> Any:
        if 13 in columns["age"]:
            raise ZeroDivisionError
        return predict(columns)

    monkeypatch.setattr(strict.model, "predict", odd)
    app = App(strict)
    seen: list[Finished] = []
    app.on_prediction = seen.append
    requests = [ask(app, json.dumps(ROW | {"age": age}).encode()) for age in (12, 13, 14)]
    responses = app.answer_together(requests)
    assert [response.status for response in responses] == [200, 500, 200]
    assert "ZeroDivisionError" in capsys.readouterr().err
    for request, response in zip(requests, responses, strict=True):
        app.finished(request, response, 0.001)
    app.predicted(requests)
    assert [finished.sizes for finished in seen] == [[1], [1]]


def test_models_that_only_scikit_learn_serves_see_each_request_alone(
    strict: Predictor, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = bundle.msgspec.structs.replace(strict.manifest, serving="sklearn")
    monkeypatch.setattr(strict, "manifest", manifest)
    app = App(strict)
    app.answer_together([ask(app, json.dumps(ROW).encode()) for _ in range(3)])
    assert calls == [1, 1, 1]


def test_a_model_that_is_gone_wrong_is_told_to_each(
    strict: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> Any:
        raise DataError("no")

    monkeypatch.setattr(strict.model, "predict", refuse)
    app = App(strict)
    responses = app.answer_together([ask(app, json.dumps(ROW).encode()) for _ in range(3)])
    assert [response.status for response in responses] == [400] * 3


def test_what_was_predicted_is_noted_once_with_all_its_requests(strict: Predictor) -> None:
    measures = Measures(strict)
    measures.registry.open(1)
    measures.registry.use(0)
    app = App(strict, measures=measures)
    seen: list[Finished] = []
    app.on_prediction = seen.append
    sizes = [1, 3, 2]
    requests = [ask(app, json.dumps((ROWS[:2] * 2)[:size]).encode()) for size in sizes]
    last = ask(app, b"{")
    responses = app.answer_together([*requests, last])
    for i, (request, response) in enumerate(zip([*requests, last], responses, strict=True)):
        app.finished(request, response, 0.001 * (i + 1))
    app.predicted([*requests, last])
    (finished,) = seen
    assert finished.sizes == sizes
    assert finished.request_ids == [request.id.decode() for request in requests]
    assert finished.seconds == pytest.approx([0.001, 0.002, 0.003])
    assert finished.prediction.batch.rows == 6
    text = measures.text().decode()
    assert "\ntrilho_rows_total 6\n" in text
    assert '\ntrilho_request_rows_bucket{le="1"} 1\n' in text
    assert "\ntrilho_request_rows_count 3\n" in text
    assert "\ntrilho_request_rows_sum 6\n" in text
    assert "\ntrilho_score_count 6\n" in text


def test_nothing_is_noted_of_those_who_were_gone(strict: Predictor) -> None:
    app = App(strict)
    seen: list[Finished] = []
    app.on_prediction = seen.append
    requests = [ask(app, json.dumps(ROW).encode()) for _ in range(2)]
    app.answer_together(requests)  # and nobody was there to whom it could be written
    app.predicted(requests)
    assert not seen


def test_of_a_group_that_we_failed_in_part_nothing_is_noted(
    strict: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(strict)
    seen: list[Finished] = []
    app.on_prediction = seen.append
    encode = strict.encode

    def fail(prediction: Any, start: int = 0, stop: int | None = None) -> bytes:
        if start == 1:
            raise ZeroDivisionError
        return encode(prediction, start, stop)

    monkeypatch.setattr(strict, "encode", fail)
    requests = [ask(app, json.dumps(ROW).encode()) for _ in range(3)]
    responses = app.answer_together(requests)
    assert [response.status for response in responses] == [200, 500, 200]
    for request, response in zip(requests, responses, strict=True):
        app.finished(request, response, 0.001)
    app.predicted(requests)
    assert not seen


# ── how many at once ──────────────────────────────────────────────────────────────────────────────


class Client:
    """As much of a connection as the line needs."""

    gone = False

    def respond_later(self, request: Request, response: Response) -> None:
        pass

    release = respond_later


def groups(answers: Callable[[int], float], monkeypatch: pytest.MonkeyPatch, count: int) -> Any:
    """How many requests of a long line were answered at once, by what that takes in seconds."""
    sizes: list[int] = []
    now = 0.0

    def answer(requests: list[Request]) -> list[Response]:
        nonlocal now
        sizes.append(len(requests))
        now += answers(len(requests))
        return [Response(200, b"")] * len(requests)

    class Clock:
        monotonic = staticmethod(lambda: now)

    line = Work(answer, lambda _: None, None, most=10_000, patience=60, threads=1)
    monkeypatch.setattr(work, "time", Clock)
    for _ in range(count):
        line._small.append(work.Waiting(Request(b"", b"", {}), Client()))  # type: ignore[arg-type]
    while len(line):
        line._compute_some()
    return sizes


def test_more_at_once_while_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = groups(lambda n: 20e-6, monkeypatch, 200)
    assert sizes[:7] == [1, 2, 4, 8, 16, TOGETHER, TOGETHER]


def test_one_after_the_other_where_the_model_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(groups(lambda n: n * 0.02, monkeypatch, 50)) == {1}


def test_as_many_at_once_as_take_no_longer_than_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = groups(lambda n: n * work.TOGETHER_SECONDS / 6, monkeypatch, 100)
    assert sizes[:8] == [1, 2, 4, 8, 4, 8, 4, 8]


def test_fewer_at_once_when_the_model_becomes_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = iter([True] * 8)
    sizes = groups(lambda n: n * (1e-6 if next(quick, False) else 0.02), monkeypatch, 300)
    assert sizes[7] == TOGETHER
    assert sizes[8:15] == [32, 16, 8, 4, 2, 1, 1]


def test_a_large_body_ends_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Work(lambda _: [], lambda _: None, None, most=10, patience=60, threads=1)
    line._together = TOGETHER
    for size in (10, work.INLINE_BODY - 20, 20, 10):
        request = Request(b"", b"", {})
        request.body = b" " * size
        line._small.append(work.Waiting(request, Client()))  # type: ignore[arg-type]
    assert [len(waiting.request.body) for waiting in line._some(time.monotonic())][2:] == [20]
    assert len(line) == 1


def test_a_client_that_cannot_be_answered_costs_the_others_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Bad(Client):
        aborted = False

        @property
        def transport(self) -> Bad:
            return self

        def abort(self) -> None:
            self.aborted = True

        def respond_later(self, request: Request, response: Response) -> None:
            raise MemoryError

        def release(self, request: Request) -> None:  # type: ignore[override]
            pass

    class Good(Client):
        answers = 0

        def respond_later(self, request: Request, response: Response) -> None:
            self.answers += 1

    noted: list[list[Request]] = []
    clients = [Good(), Bad(), Good()]
    line = Work(
        lambda requests: [Response(200, b"")] * len(requests),
        noted.append,
        None,
        most=10,
        patience=60,
        threads=1,
    )
    line._together = TOGETHER
    for client in clients:
        line._small.append(work.Waiting(Request(b"", b"", {}), client))  # type: ignore[arg-type]
    line._compute_some()
    assert [getattr(client, "answers", None) for client in clients] == [1, None, 1]
    assert clients[1].aborted  # type: ignore[attr-defined]
    assert [len(requests) for requests in noted] == [3]
    assert "MemoryError" in capsys.readouterr().err


def test_clients_that_are_gone_are_passed_over(tmp_path: Path) -> None:
    line = Work(lambda _: [], lambda _: None, None, most=10, patience=60, threads=1)
    gone = Client()
    gone.gone = True
    gone.release = lambda _: None  # type: ignore[assignment,method-assign,misc]
    line._small.append(work.Waiting(Request(b"", b"", {}), gone))  # type: ignore[arg-type]
    line._compute_some()
    assert len(line) == 0
