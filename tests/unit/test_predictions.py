"""The prediction log: whole lines, nothing sensitive, bounded, and hardly anything lost."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import served
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from served import CLASSES, ROW, ROWS, THRESHOLD, Service, expected, running
from waiting import PATIENCE, eventually

from trilho import bundle
from trilho.errors import UnavailableError, UsageError
from trilho.serving import predictions, predictions_spool, predictor, settings
from trilho.serving.app import Finished
from trilho.serving.metrics import Registry
from trilho.serving.predictions import Counts, PredictionLog
from trilho.serving.predictions_lines import PIECE, Kept, Lines, doubtful
from trilho.serving.predictions_spool import Segment, Spool
from trilho.serving.predictor import Predictor
from trilho.serving.settings import Keeping
from trilho.storage.base import AlreadyExists

AT = 1_769_860_800.25  # 2026-01-31T12:00:00.250Z
PARTITION = "predictions/model=tiny/date=2026-01-31/hour=12"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predictions") / "bundle"
    served.make_bundle(path, id="who")
    return path


def load(folder: Path) -> Predictor:
    return predictor.load(folder, *bundle.verify(folder), version="7")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Predictor:
    return load(folder)


def keeping(tmp_path: Path, **options: Any) -> Keeping:
    return Keeping(**{"url": str(tmp_path / "out"), "spool": tmp_path / "spool"} | options)


def finished(
    model: Predictor, rows: list[dict[str, Any]], id: str = "abc", at: float = AT
) -> Finished:
    prediction = model.predict(model.decoder.read(json.dumps(rows).encode()))
    return Finished(prediction, [id], [len(rows)], [0.0012345], at)


def lines(
    model: Predictor, tmp_path: Path, rows: list[dict[str, Any]], **options: Any
) -> list[Any]:
    maker = Lines(model.signature, model.columns, model.identity, keeping(tmp_path, **options))
    made = b"".join(maker.of(Kept(*finished(model, rows))))
    assert made.endswith(b"\n")
    return [json.loads(line) for line in made[:-1].split(b"\n")]


class Open:
    """A log in this process, with its metrics."""

    def __init__(self, model: Predictor, options: Keeping) -> None:
        self.registry = Registry()
        self.counts = Counts(self.registry)
        self.registry.open(1)
        self.registry.use(0)
        self.log = PredictionLog(model, options, workers=1, counts=self.counts)
        self.spool = self.log._spool

    def total(self, cell: int) -> float:
        return self.registry.column(cell)[0]

    def dropped(self, reason: str) -> float:
        return self.total(self.counts.dropped.cell(reason))


def unfolded(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a line."""
    inputs = line["inputs"]
    names = [name for name in line if isinstance(line[name], list)]
    assert {len(line[name]) for name in names} | {len(inputs[n]) for n in inputs} <= {line["rows"]}
    return [
        {name: line[name][i] for name in names}
        | {"inputs": {name: values[i] for name, values in inputs.items()}}
        for i in range(line["rows"])
    ]


def stored(place: Path, log: str = "predictions") -> list[dict[str, Any]]:
    """All rows in the place where the log goes."""
    found: list[dict[str, Any]] = []
    for path in sorted(place.glob(f"{log}/**/*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            found += unfolded(json.loads(line))
    return found


def spooled(place: Path) -> list[dict[str, Any]]:
    """All rows that were not sent yet."""
    return [
        row
        for path in place.rglob("*.jsonl")
        for line in path.read_bytes().splitlines()
        for row in unfolded(json.loads(line))
    ]


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────


def test_keeps_what_was_asked_and_answered(tiny: Predictor, tmp_path: Path) -> None:
    rows = [{**row, "who": name} for row, name in zip(ROWS, ["a", "b", None, 17], strict=True)]
    (line,) = lines(tiny, tmp_path, rows)
    assert line == {
        "time": ["2026-01-31T12:00:00.250Z"] * 4,
        "request_id": ["abc"] * 4,
        "model": "tiny",
        "version": "7",
        "digest": tiny.identity.digest,
        "milliseconds": [1.234] * 4,
        "rows": 4,
        "entity": ["a", "b", None, 17],
        "inputs": {
            "city": ["Porto", "Lisboa", None, "nowhere"],
            "age": [44, 18, 71, 30],
            "income": [1250.5, None, None, -2000],
            "married": [True, False, True, False],
            "joined": ["2024-02-29", None, None, "1969-07-20"],
        },
        "score": pytest.approx([expected(row) for row in rows], abs=1e-12),
        "decision": [CLASSES[expected(row) >= THRESHOLD] for row in rows],
    }
    assert all(type(age) is int for age in line["inputs"]["age"])


def test_small_requests_share_a_line(tiny: Predictor, tmp_path: Path) -> None:
    maker = Lines(tiny.signature, tiny.columns, tiny.identity, keeping(tmp_path))
    some = [{**ROW, "age": 1}, {**ROW, "age": 2, "income": None}, {**ROW, "age": 3, "who": "c"}]
    many = [
        Kept(*finished(tiny, some[:1], "a")),
        Kept(*finished(tiny, some, "b", AT + 1), rows=np.array([2, 0])),
        Kept(*finished(tiny, some[1:], "c")),
    ]
    rows = unfolded(json.loads(maker.join(many)))
    assert [row["request_id"] for row in rows] == ["a", "b", "b", "c", "c"]
    assert [row["time"][17:] for row in rows] == ["00.250Z", *["01.250Z"] * 2, *["00.250Z"] * 2]
    assert [row["inputs"]["age"] for row in rows] == [1, 3, 1, 2, 3]
    assert [row["inputs"]["income"] for row in rows] == [*[1250.5] * 3, None, 1250.5]
    assert [row["entity"] for row in rows] == [None, "c", None, None, "c"]
    wanted = [expected(some[row["inputs"]["age"] - 1]) for row in rows]
    assert [row["score"] for row in rows] == pytest.approx(wanted, abs=1e-12)
    assert [row["decision"] for row in rows] == [CLASSES[p >= THRESHOLD] for p in wanted]


def test_a_whole_number_stays_one_beside_a_missing_one(tmp_path: Path) -> None:
    columns = [
        msgspec.structs.replace(column, required=False) if column.kind != "number" else column
        for column in served.COLUMNS
    ]
    served.make_bundle(tmp_path / "bundle", columns=columns)
    model = load(tmp_path / "bundle")
    rows = [{"income": 1.0, "age": 7, "married": True}, {"income": 2.0}]
    (line,) = lines(model, tmp_path, rows)
    assert line["inputs"]["age"] == [7, None]
    assert type(line["inputs"]["age"][0]) is int
    assert line["inputs"]["married"] == [True, None]
    assert line["entity"] is None


def test_parts_large_batches_into_lines_that_hold_all_rows(tiny: Predictor, tmp_path: Path) -> None:
    rows = [{**ROW, "age": i, "who": str(i)} for i in range(2 * PIECE + 1)]
    found = lines(tiny, tmp_path, rows)
    assert [line["rows"] for line in found] == [PIECE, PIECE, 1]
    assert [age for line in found for age in line["inputs"]["age"]] == list(range(len(rows)))
    assert [who for line in found for who in line["entity"]] == [row["who"] for row in rows]
    scores = [score for line in found for score in line["score"]]
    assert scores == pytest.approx([expected(row) for row in rows], abs=1e-12)


def test_a_moment_of_a_day_keeps_its_time(tiny: Predictor, tmp_path: Path) -> None:
    (line,) = lines(tiny, tmp_path, [{**ROW, "joined": "2024-02-29T06:30:00+01:00"}])
    assert line["inputs"]["joined"] == ["2024-02-29T05:30:00+00:00"]


def test_dates_at_the_end_of_time_are_lines_too(tiny: Predictor, tmp_path: Path) -> None:
    far = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
    (line,) = lines(tiny, tmp_path, [{**ROW, "joined": date} for date in far])
    assert [date[:10] for date in line["inputs"]["joined"]] == ["0001-01-01", "9999-12-31"]


def test_what_cannot_become_a_line_is_counted_and_holds_up_nobody(
    tiny: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Open(tiny, keeping(tmp_path, daily=0))
    it.log.start()
    with monkeypatch.context() as patch:
        patch.setattr(Lines, "join", lambda *_: 1 / 0)
        it.log.take(finished(tiny, ROWS))
        it.log.tick()
        patch.setattr(predictions, "LINE_BYTES", 0)
        it.log.take(finished(tiny, ROWS))
        it.log.take(finished(tiny, [ROW] * (PIECE + 1)))
        eventually(lambda: it.dropped("failed") == 8 + PIECE + 1)
    it.log.take(finished(tiny, ROWS))
    it.log.close(PATIENCE)
    assert len(stored(tmp_path / "out")) == 4


def test_keeps_only_the_columns_that_are_allowed(tiny: Predictor, tmp_path: Path) -> None:
    (line,) = lines(tiny, tmp_path, ROWS, columns=("age", "city"))
    assert set(line["inputs"]) == {"age", "city"}
    assert lines(tiny, tmp_path, ROWS, columns=())[0]["inputs"] == {}


def test_leaves_sensitive_columns_out_or_hashes_them(tiny: Predictor, tmp_path: Path) -> None:
    rows = [{**row, "who": name} for row, name in zip(ROWS, "xyxz", strict=True)]
    sensitive = ("city", "age", "income", "joined", "who")
    (line,) = lines(tiny, tmp_path, rows, sensitive=sensitive)
    assert set(line["inputs"]) == {"married"}
    assert line["entity"] is None
    (line,) = lines(tiny, tmp_path, rows, sensitive=sensitive, hash_key="k")
    text = json.dumps(line)
    for plain in ("Porto", "Lisboa", "1250", "2024-02-29", '"x"', " 44", " 71"):
        assert plain not in text
    assert line["inputs"]["married"] == [True, False, True, False]
    assert line["inputs"]["income"][1] is None
    entity = line["entity"]
    assert entity[0] == entity[2]
    assert len({*entity}) == 3
    (other,) = lines(tiny, tmp_path, rows, sensitive=sensitive, hash_key="another")
    assert not {*other["entity"]} & {*entity}


def test_the_schemas_marks_count_as_well(tiny: Predictor, tmp_path: Path) -> None:
    marked = msgspec.structs.replace(tiny.signature, sensitive=["city", "who"])
    rows = [{**row, "who": "me"} for row in ROWS]
    kept = Kept(*finished(tiny, rows))
    for options in (keeping(tmp_path, sensitive=("age",)), keeping(tmp_path, hash_key="k")):
        line = json.loads(Lines(marked, tiny.columns, tiny.identity, options).join([kept]))
        assert "Porto" not in json.dumps(line)
        assert '"me"' not in json.dumps(line)
        assert ("age" in line["inputs"]) == ("age" not in options.sensitive)
        assert ("city" in line["inputs"]) == (options.hash_key is not None)


@pytest.mark.parametrize("name", ["columns", "sensitive"])
def test_refuses_columns_that_the_model_does_not_have(
    tiny: Predictor, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="no column 'agee'; did you mean 'age'"):
        predictions.check(tiny, keeping(tmp_path, **{name: ("agee",)}))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@examples(max_examples=60, deadline=None)
@given(city=TEXTS, who=TEXTS, id=TEXTS)
def test_no_text_breaks_a_line(
    tiny: Predictor, tmp_path_factory: pytest.TempPathFactory, city: str, who: str, id: str
) -> None:
    options = keeping(tmp_path_factory.getbasetemp())
    maker = Lines(tiny.signature, tiny.columns, tiny.identity, options)
    made = b"".join(maker.of(Kept(*finished(tiny, [{**ROW, "city": city, "who": who}], id))))
    assert made.count(b"\n") == 1
    line = json.loads(made)
    assert (line["inputs"]["city"], line["entity"]) == ([city], [who])
    assert line["request_id"] == [id]


# ── labelling ─────────────────────────────────────────────────────────────────────────────────────


def test_finds_rows_that_the_model_was_not_sure_of(tmp_path: Path) -> None:
    served.make_bundle(tmp_path / "binary")
    model = load(tmp_path / "binary")
    rows = [{**ROW, "income": float(i)} for i in range(-3000, 3000)]
    prediction = finished(model, rows).prediction
    find = doubtful(model.signature, 0.1)
    assert find is not None
    wanted = [i for i, p in enumerate(prediction.scores) if abs(p - THRESHOLD) < 0.1]
    assert 0 < len(wanted) < 6000
    assert list(find(prediction)) == wanted
    for i in (wanted[0], wanted[0] - 1):
        one = finished(model, [{**ROW, "income": float(i - 3000)}]).prediction
        assert list(find(one)) == ([0] if i == wanted[0] else [])

    served.make_bundle(tmp_path / "multiclass", "multiclass")
    model = load(tmp_path / "multiclass")
    prediction = finished(model, rows).prediction
    find = doubtful(model.signature, 0.1)
    assert find is not None
    best = np.sort(prediction.scores, axis=1)
    wanted = np.flatnonzero(best[:, -1] - best[:, -2] < 0.1).tolist()
    assert 0 < len(wanted) < 6000
    assert list(find(prediction)) == wanted

    served.make_bundle(tmp_path / "regression", "regression")
    assert doubtful(load(tmp_path / "regression").signature, 0.1) is None


def test_keeps_doubtful_rows_for_labelling_up_to_the_daily_cap(
    tiny: Predictor, tmp_path: Path
) -> None:
    options = keeping(tmp_path, sample=0.0, band=1.0, daily=5)
    it = Open(tiny, options)
    it.log.start()
    it.log.take(finished(tiny, ROWS[:3], "one"))
    it.log.take(finished(tiny, ROWS[:3], "two"))
    it.log.take(finished(tiny, ROWS[:3], "three"))
    it.log.take(finished(tiny, ROWS[:3], "tomorrow", AT + 86_400))
    it.log.close(PATIENCE)
    found = stored(tmp_path / "out", "labelling")
    assert [row["request_id"] for row in found] == [
        *(*["one"] * 3, *["two"] * 2, *["tomorrow"] * 3)
    ]
    assert [row["inputs"]["age"] for row in found] == [44, 18, 71, 44, 18, 44, 18, 71]
    assert stored(tmp_path / "out") == []  # the sample left all of them out
    assert it.total(it.counts.sent.cell("labelling")) == 8


def test_keeps_a_sample_of_the_requests(tiny: Predictor, tmp_path: Path) -> None:
    it = Open(tiny, keeping(tmp_path, sample=0.25, daily=0))
    it.log._random.seed(1)
    it.log.start()
    one = finished(tiny, ROWS[:1])
    for _ in range(2000):
        it.log.take(one)
    it.log.close(PATIENCE)
    assert 400 < len(stored(tmp_path / "out")) < 600


def together(model: Predictor, groups: list[list[dict[str, Any]]], at: float = AT) -> Finished:
    """Several requests that were answered at once."""
    rows = [row for group in groups for row in group]
    prediction = model.predict(model.decoder.read(json.dumps(rows).encode()))
    ids = [f"r{i}" for i in range(len(groups))]
    seconds = [0.001 * (i + 1) for i in range(len(groups))]
    return Finished(prediction, ids, [len(group) for group in groups], seconds, at)


def test_requests_that_were_answered_together_stay_apart(tiny: Predictor, tmp_path: Path) -> None:
    maker = Lines(tiny.signature, tiny.columns, tiny.identity, keeping(tmp_path))
    kept = Kept(*together(tiny, [ROWS[:1], ROWS[1:3], ROWS[3:]]))
    rows = unfolded(json.loads(maker.join([kept, kept._replace(rows=np.array([1, 3]))])))
    assert [row["request_id"] for row in rows] == ["r0", "r1", "r1", "r2", "r1", "r2"]
    assert [row["milliseconds"] for row in rows] == [1.0, 2.0, 2.0, 3.0, 2.0, 3.0]
    ages = [row["age"] for row in ROWS]
    assert [row["inputs"]["age"] for row in rows] == [*ages, ages[1], ages[3]]


def test_samples_requests_and_not_those_that_came_together(tiny: Predictor, tmp_path: Path) -> None:
    it = Open(tiny, keeping(tmp_path, sample=0.5, daily=0))
    it.log._random.seed(1)
    it.log.start()
    for _ in range(100):
        it.log.take(together(tiny, [ROWS[:2], ROWS[2:3]]))
    it.log.close(PATIENCE)
    rows = [row["request_id"] for row in stored(tmp_path / "out")]
    assert 35 * 2 < rows.count("r0") < 65 * 2
    assert rows.count("r0") % 2 == 0  # whole requests
    assert 35 < rows.count("r1") < 65


def test_a_hash_is_the_same_whatever_stands_beside_the_value(
    tiny: Predictor, tmp_path: Path
) -> None:
    def hashes(*incomes: float) -> Any:
        rows = [{**ROW, "income": income} for income in incomes]
        (line,) = lines(tiny, tmp_path, rows, sensitive=("income",), hash_key="k")
        return line["inputs"]["income"]

    assert hashes(24.0, 1.5)[0] == hashes(24.0, 7.0)[0]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_models_scores_may_be_a_column_of_a_wider_block(
    tiny: Predictor, tmp_path: Path, rows: int
) -> None:
    done = finished(tiny, ROWS[:rows])
    scores = np.stack([1 - done.prediction.scores, done.prediction.scores], axis=1)
    maker = Lines(tiny.signature, tiny.columns, tiny.identity, keeping(tmp_path))
    for strided in (scores[:, 1], np.asfortranarray(scores)):
        kept = Kept(*done)._replace(prediction=done.prediction._replace(scores=strided))
        assert json.loads(maker.join([kept]))["score"] == strided.tolist()


def test_an_id_may_be_any_whole_number(tiny: Predictor, tmp_path: Path) -> None:
    (line,) = lines(tiny, tmp_path, [{**ROW, "who": 10**30}, {**ROW, "who": -(2**63) - 1}])
    assert line["entity"] == [10**30, -(2**63) - 1]


# ── where it goes ─────────────────────────────────────────────────────────────────────────────────


def test_objects_are_named_by_model_and_hour(tiny: Predictor, tmp_path: Path) -> None:
    it = Open(tiny, keeping(tmp_path, daily=0))
    it.log.start()
    it.log.take(finished(tiny, ROWS))
    it.log.take(finished(tiny, ROWS, at=AT - 1))
    it.log.close(PATIENCE)
    found = list((tmp_path / "out").rglob("*.gz"))
    assert {p.parent.relative_to(tmp_path / "out").as_posix() for p in found} == {
        PARTITION,
        PARTITION.replace("hour=12", "hour=11"),
    }
    assert all(p.name.endswith("-r4.jsonl.gz") for p in found)
    assert not any((tmp_path / "spool").glob("*/*"))  # nothing is left behind


def test_a_file_that_comes_while_others_are_sent_is_packed_too(
    tiny: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Open(tiny, keeping(tmp_path, daily=0))
    (line,) = it.log._lines.of(Kept(*finished(tiny, ROWS)))
    late = [line] * 3
    looked = it.spool.next

    def next_one() -> Segment | None:
        found = looked()
        if found is None and late:  # as the thread that writes would, at the worst moment
            it.spool.append(PARTITION, [late.pop()], len(ROWS))
            it.spool.roll(all=True)
        return found

    monkeypatch.setattr(it.spool, "next", next_one)
    it.log.start()
    it.log.take(finished(tiny, ROWS))
    eventually(lambda: not late)
    it.log.close(PATIENCE)
    files = [path for path in (tmp_path / "out/predictions").rglob("*") if path.is_file()]
    assert all(path.name.endswith("-r4.jsonl.gz") for path in files)
    assert len(stored(tmp_path / "out")) == 4 * len(ROWS)


def test_what_was_sent_in_one_form_is_not_sent_in_another(
    tiny: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed after a file was stored; the next one would name it otherwise."""
    pytest.importorskip("pyarrow.parquet")

    class KilledError(BaseException):
        pass

    def kill(_: Segment) -> None:
        raise KilledError

    first = Open(tiny, keeping(tmp_path, daily=0, format="parquet"))
    first.log.take(finished(tiny, ROWS))
    first.log.tick()
    first.log._append(first.log._queue.get_nowait())  # type: ignore[arg-type]
    first.spool.roll(all=True)
    monkeypatch.setattr(first.spool, "sent", kill)
    with pytest.raises(KilledError):
        first.log._sender._send_all()
    for descriptor in first.spool._locks.values():
        os.close(descriptor)
    second = Open(tiny, keeping(tmp_path, daily=0))
    second.log.start()
    second.log.close(PATIENCE)
    files = [path for path in (tmp_path / "out/predictions").rglob("*") if path.is_file()]
    assert [path.suffix for path in files] == [".parquet"]
    assert not any((tmp_path / "spool").glob("*/*"))


def test_parquet_has_a_row_for_each_row_and_fixed_types(tiny: Predictor, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    it = Open(
        tiny,
        keeping(tmp_path, format="parquet", daily=0, sensitive=("city", "age"), hash_key="k"),
    )
    it.log.start()
    it.log.take(finished(tiny, [{**row, "who": i} for i, row in enumerate(ROWS)]))
    it.log.take(finished(tiny, ROWS[1:2], at=AT - 3600))  # all that may be missing is missing
    it.log.close(PATIENCE)
    first, second = sorted((tmp_path / "out").rglob("*.parquet"))
    assert parquet.read_schema(first) == parquet.read_schema(second)
    rows = parquet.read_table(second).to_pylist()
    assert [row["score"] for row in rows] == pytest.approx([expected(row) for row in ROWS])
    assert [row["entity"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["time"].isoformat() == "2026-01-31T12:00:00.250000+00:00"
    assert rows[0]["inputs"]["married"] is True
    assert rows[0]["inputs"]["joined"] == "2024-02-29"
    assert len(rows[0]["inputs"]["age"]) == 32  # a hash
    assert {row["request_id"] for row in rows} == {"abc"}


def test_the_service_loads_neither_pandas_nor_pyarrow() -> None:
    code = (
        "import sys, trilho.serving.server, boto3\n"
        "found = {'pandas', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ── trouble ───────────────────────────────────────────────────────────────────────────────────────


class Away:
    """A store that does not answer for a while."""

    url = "nowhere"

    def __init__(self) -> None:
        self.away = True
        self.objects: dict[str, bytes] = {}
        self.asked = 0

    def put_once(self, key: str, data: bytes) -> str:
        self.asked += 1
        if self.away:
            raise UnavailableError("Cannot write: nobody there.")
        if key in self.objects:
            raise AlreadyExists(key)
        self.objects[key] = data
        return ""

    def rows(self) -> int:
        packs = [gzip.decompress(data).splitlines() for data in self.objects.values()]
        return sum(json.loads(line)["rows"] for pack in packs for line in pack)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Away:
    store = Away()
    monkeypatch.setattr(predictions.storage, "open_store", lambda _: store)
    monkeypatch.setattr(predictions, "RETRY_SECONDS", (0.02, 0.05))
    monkeypatch.setattr(predictions, "ROLL_SECONDS", 0.02)
    return store


def test_what_cannot_be_sent_waits_and_is_sent_later(
    tiny: Predictor, tmp_path: Path, away: Away, capsys: pytest.CaptureFixture[str]
) -> None:
    it = Open(tiny, keeping(tmp_path, seconds=0.05, daily=0))
    it.log.start()
    for i in range(3):
        it.log.take(finished(tiny, ROWS))
        it.log.tick()
        eventually(lambda: away.asked > 2 * i + 2)  # noqa: B023 - called at once
    assert it.total(it.counts.failures.start) >= 3
    assert it.total(it.counts.backlog.start) > 0
    away.away = False
    eventually(lambda: away.rows() == 12)
    eventually(lambda: it.total(it.counts.backlog.start) == 0)
    it.log.close(PATIENCE)
    assert it.total(it.counts.sent.cell("predictions")) == 12
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [event for event in events if event["event"] == "prediction-log"]
    assert [event.get("error") or event["restored"] for event in told] == [
        *("Cannot write: nobody there.", True)  # once, not at each attempt
    ]


def test_an_object_that_is_there_already_was_sent(
    tiny: Predictor, tmp_path: Path, away: Away
) -> None:
    away.away = False
    it = Open(tiny, keeping(tmp_path, daily=0))
    away.put_once = lambda key, data: (_ for _ in ()).throw(AlreadyExists(key))  # type: ignore[method-assign]
    it.log.start()
    it.log.take(finished(tiny, ROWS))
    it.log.close(PATIENCE)
    assert it.total(it.counts.failures.start) == 0
    assert spooled(tmp_path / "spool") == []


def test_a_full_spool_drops_the_oldest_and_counts_it(
    tiny: Predictor, tmp_path: Path, away: Away
) -> None:
    it = Open(tiny, keeping(tmp_path, spool_bytes=20_000, seconds=3600, daily=0))
    written = 0
    for i in range(60):
        it.log.take(finished(tiny, ROWS, str(i)))
        it.log.tick()
        item = it.log._queue.get()
        assert item is not None
        it.log._append(item)
        written += 4
        assert it.spool.size <= 20_000
    left = sorted({int(row["request_id"]) for row in spooled(tmp_path / "spool")})
    assert left == list(range(60 - len(left), 60))  # the youngest, without a gap
    assert 10 < len(left) < 60
    assert it.dropped("spool") == written - 4 * len(left) > 0
    away.away = False
    it.log.start()
    it.log.close(PATIENCE)
    assert away.rows() == 4 * len(left)


def test_a_full_buffer_drops_and_counts_and_holds_up_nobody(
    tiny: Predictor, tmp_path: Path, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "BUFFER_BYTES", 10_000)
    monkeypatch.setattr(predictions, "LINE_BYTES", 0)
    it = Open(tiny, keeping(tmp_path, daily=0))  # not started: as if the disk were stuck
    for _ in range(100):
        it.log.take(finished(tiny, ROWS))
        it.log.tick()
    assert it.log._size < 12_000
    kept = it.log._queue.qsize()
    assert it.dropped("buffer") == 4 * (100 - kept) > 0
    large = finished(tiny, [ROW] * (PIECE + 1))
    for _ in range(6):
        it.log.take(large)
    assert it.dropped("buffer") == 4 * (100 - kept) + 2 * (PIECE + 1)
    away.away = False
    it.log.start()
    it.log.close(PATIENCE)
    assert away.rows() == 4 * kept + 4 * (PIECE + 1)  # what was in the buffer is not lost


def test_a_disk_that_fails_is_told_and_the_log_goes_on(
    tiny: Predictor, tmp_path: Path, away: Away, capsys: pytest.CaptureFixture[str]
) -> None:
    away.away = False
    it = Open(tiny, keeping(tmp_path, daily=0, seconds=3600))
    it.log.start()
    append = it.spool.append

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    it.spool.append = full  # type: ignore[method-assign]
    for _ in range(2):
        it.log.take(finished(tiny, ROWS))
        it.log.tick()
    eventually(lambda: it.dropped("disk") == 8)
    it.spool.append = append  # type: ignore[method-assign]
    it.log.take(finished(tiny, ROWS))
    it.log.close(PATIENCE)
    assert away.rows() == 4
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_write_that_breaks_off_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, "x", limit=10**6, seconds=60, dropped=lambda _: None)
    spool.append(PARTITION, [b'{"rows":1}\n'], 1)
    write, calls = os.write, 0

    def half(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:5])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        spool.append(PARTITION, [b'{"rows":2}\n'], 2)
    monkeypatch.setattr(os, "write", write)
    (path,) = tmp_path.rglob("*.jsonl")
    assert path.read_bytes() == b'{"rows":1}\n'
    spool.append(PARTITION, [b'{"rows":3}\n'], 3)
    assert path.read_bytes() == b'{"rows":1}\n{"rows":3}\n'
    spool.close()


def test_leftovers_of_the_dead_are_taken_over_and_those_of_the_living_are_not(
    tmp_path: Path,
) -> None:
    def spool() -> Spool:
        return Spool(tmp_path, "x", limit=10**6, seconds=60, dropped=lambda _: None)

    dead, living = spool(), spool()
    for it in (dead, living):
        it.append(PARTITION, [b'{"rows":2}\n{"rows":3}\n'], 5)
    for descriptor in dead._locks.values():  # as the kernel does when a process dies
        os.close(descriptor)
    (torn,) = dead.folder.rglob("*.jsonl")
    torn.write_bytes(torn.read_bytes() + b'{"rows":4,"inp')
    (torn.parent / "19990101T000000-1-aa-000001-r7.jsonl.gz").write_bytes(b"older")
    (torn.parent / "x-r7.jsonl.gz.partial").write_bytes(b"half")
    heir = spool()
    assert heir.adopt() == 2
    old = heir.next()
    assert old is not None
    assert (old.rows, old.key.rpartition("/")[0], old.unpacked) == (7, PARTITION, False)
    heir.sent(old)
    raw = heir.next()
    assert raw is not None
    assert (raw.rows, raw.unpacked) == (5, True)
    assert raw.path.read_bytes() == b'{"rows":2}\n{"rows":3}\n'
    heir.sent(raw)
    assert heir.next() is None
    assert heir.adopt() == 0
    assert not dead.folder.exists()
    assert living.folder.exists()
    heir.close()


def test_leftovers_that_cannot_be_read_now_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spool() -> Spool:
        return Spool(tmp_path, "x", limit=10**6, seconds=60, dropped=lambda _: None)

    dead, heir = spool(), spool()
    dead.append(PARTITION, [b'{"rows":2}\n'], 2)
    for descriptor in dead._locks.values():
        os.close(descriptor)

    def fail(_: Path) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(predictions_spool, "_repaired", fail)
        with pytest.raises(OSError, match="Too many"):
            heir.adopt()
    heir.append(PARTITION, [b'{"rows":3}\n'], 3)
    heir.roll(all=True)
    mine = heir.next()
    assert mine is not None
    heir.sent(mine)
    assert heir.adopt() == 1
    heir.close()


def test_a_file_that_somebody_removed_holds_up_none_behind_it(
    tiny: Predictor, tmp_path: Path
) -> None:
    it = Open(tiny, keeping(tmp_path, daily=0))
    for at in (AT - 3600, AT):
        it.log.take(finished(tiny, ROWS, at=at))
    it.log.tick()
    for _ in range(2):
        it.log._append(it.log._queue.get_nowait())  # type: ignore[arg-type]
    it.spool.roll(all=True)
    first = it.spool.next()
    assert first is not None
    first.path.unlink()
    it.log.start()
    it.log.close(PATIENCE)
    assert len(stored(tmp_path / "out")) == len(ROWS)
    assert it.dropped("disk") == len(ROWS)


def test_a_disk_that_fails_does_not_end_the_log(
    tiny: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Open(tiny, keeping(tmp_path, daily=0, seconds=0.0))
    it.log.start()

    def broken(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        for name in ("write", "ftruncate", "unlink"):
            patch.setattr(os, name, broken)
        it.log.take(finished(tiny, ROWS))
        it.log.tick()
        eventually(lambda: it.dropped("disk") == len(ROWS))
        eventually(lambda: not it.spool._open)  # it was rolled
    it.log.take(finished(tiny, ROWS))
    it.log.close(PATIENCE)
    assert len(stored(tmp_path / "out")) == len(ROWS)


def test_rows_for_which_there_is_no_room_are_dropped_and_not_kept(
    tiny: Predictor, tmp_path: Path
) -> None:
    it = Open(tiny, keeping(tmp_path, daily=0, spool_bytes=1000))
    it.log.start()
    it.log.take(finished(tiny, [ROW] * (PIECE + 1)))
    it.log.close(PATIENCE)
    found = len(stored(tmp_path / "out"))
    assert it.dropped("spool") == PIECE + 1 - found
    assert it.total(it.counts.kept.cell("predictions")) == found < PIECE


def test_files_are_packed_before_their_turn_when_room_gets_scarce(
    tiny: Predictor, tmp_path: Path
) -> None:
    it = Open(tiny, keeping(tmp_path, daily=0, spool_bytes=40_000))
    turns: list[int] = []
    put = it.log._sender._store.put_once

    def slow(key: str, data: bytes) -> str:
        turns.append(sum(segment.unpacked for segment in it.spool._closed))
        return put(key, data)

    it.log._sender._store.put_once = slow  # type: ignore[method-assign]
    for hour in range(5):
        it.log.take(finished(tiny, ROWS * 10, at=AT + 3600 * hour))
    it.log.tick()
    for _ in range(5):
        it.log._append(it.log._queue.get_nowait())  # type: ignore[arg-type]
    it.spool.roll(all=True)
    assert it.spool.crowded
    it.log._sender._send_all()
    assert turns == [0] * 5
    it.spool.close()


def test_another_place_has_other_leftovers(tmp_path: Path) -> None:
    mine = Spool(tmp_path, "s3://a", limit=10**6, seconds=60, dropped=lambda _: None)
    mine.append(PARTITION, [b'{"rows":2}\n'], 2)
    mine.close()
    other = Spool(tmp_path, "s3://b", limit=10**6, seconds=60, dropped=lambda _: None)
    assert other.adopt() == 0
    again = Spool(tmp_path, "s3://a", limit=10**6, seconds=60, dropped=lambda _: None)
    assert again.adopt() == 1


# ── the service ───────────────────────────────────────────────────────────────────────────────────

JSON = {"content-type": "application/json"}


def ask(service: Service, id: str, rows: list[dict[str, Any]] | None = None) -> None:
    body = json.dumps(rows or ROWS[:1])
    assert service.ask("POST", "/invocations", body, {**JSON, "x-request-id": id})[0] == 200


def test_a_service_that_ends_has_sent_all(folder: Path, tmp_path: Path) -> None:
    with running(
        TRILHO_MODEL_DIR=folder,
        TRILHO_PREDICTION_LOG=tmp_path / "out",
        TRILHO_LOG_SPOOL=tmp_path / "spool",
        TRILHO_LABEL_DAILY=0,
        TRILHO_WORKERS=2,
        TRILHO_DRAIN_SECONDS=0,
    ) as service:
        for i in range(20):
            ask(service, f"r{i}", ROWS)
        ask(service, "large", [ROW] * 5000)
        code, _ = service.stop(signal.SIGTERM)
    assert code == 0
    found = stored(tmp_path / "out")
    assert {row["request_id"] for row in found} == {*(f"r{i}" for i in range(20)), "large"}
    assert len(found) == 80 + 5000
    assert not any(path.is_file() for path in (tmp_path / "spool").rglob("*"))


def test_kill_9_loses_at_most_a_second_and_the_next_service_sends_the_rest(
    folder: Path, tmp_path: Path
) -> None:
    variables = {
        "TRILHO_MODEL_DIR": folder,
        "TRILHO_LOG_SPOOL": tmp_path / "spool",
        "TRILHO_PREDICTION_LOG": tmp_path / "out",
        "TRILHO_LABEL_DAILY": 0,
        "TRILHO_LOG_SECONDS": 3600,  # nothing is sent before the end
    }
    answered: dict[str, float] = {}
    with running(**variables) as service:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            id = f"r{len(answered)}"
            ask(service, id)
            answered[id] = time.monotonic()
        service.process.kill()
        killed = time.monotonic()
        service.process.wait()
    kept = {row["request_id"] for row in spooled(tmp_path / "spool")}
    lost = [killed - at for id, at in answered.items() if id not in kept]
    assert len(kept) > 100
    assert max(lost, default=0) <= 1
    assert stored(tmp_path / "out") == []
    with running(**variables) as service:
        eventually(lambda: len(stored(tmp_path / "out")) == len(kept))
        service.stop()
    sent = [row["request_id"] for row in stored(tmp_path / "out")]
    assert sorted(sent) == sorted(kept)  # each once


def test_a_killed_worker_is_replaced_and_its_leftovers_are_sent(
    folder: Path, tmp_path: Path
) -> None:
    with running(
        TRILHO_MODEL_DIR=folder,
        TRILHO_PREDICTION_LOG=tmp_path / "out",
        TRILHO_LOG_SPOOL=tmp_path / "spool",
        TRILHO_LOG_SECONDS=3600,
        TRILHO_LABEL_DAILY=0,
        TRILHO_WORKERS=2,
    ) as service:
        for i in range(10):
            ask(service, f"r{i}")
        eventually(lambda: len(spooled(tmp_path / "spool")) == 10)
        folders = [path.parents[4] for path in (tmp_path / "spool").rglob("*.jsonl")]
        assert folders
        for it in folders:
            os.kill(int(it.name.split("-")[0]), signal.SIGKILL)
        eventually(lambda: len(stored(tmp_path / "out")) == 10)
        eventually(lambda: not any(it.exists() for it in folders))


def test_hostile_requests_make_whole_lines_through_the_service(
    folder: Path, tmp_path: Path
) -> None:
    texts = ["a\nb", '"},{"x":"', "\u2028\u2029\x85", "\x00\x1f\\", "\U0001f600", "\r\n\r\n"]
    ids = ["a b", "<x>", "x" * 129, '"}', "fine-1", "\u00e9"]
    with running(
        TRILHO_MODEL_DIR=folder,
        TRILHO_PREDICTION_LOG=tmp_path / "out",
        TRILHO_LOG_SPOOL=tmp_path / "spool",
        TRILHO_LABEL_DAILY=0,
    ) as service:
        for text, id in zip(texts, ids, strict=True):
            ask(service, id, [{**ROW, "city": text, "who": text}])
        service.stop()
    found = stored(tmp_path / "out")
    assert [row["inputs"]["city"] for row in found] == texts
    assert [row["entity"] for row in found] == texts
    assert sum(row["request_id"] in ids for row in found) == 1


def test_refused_requests_are_not_kept(folder: Path, tmp_path: Path) -> None:
    with running(
        TRILHO_MODEL_DIR=folder,
        TRILHO_PREDICTION_LOG=tmp_path / "out",
        TRILHO_LOG_SPOOL=tmp_path / "spool",
    ) as service:
        assert service.predict([{"age": "do-not-keep-me"}])[0] == 400
        assert service.ask("GET", "/ping")[0] == 200
        service.stop()
    assert not (tmp_path / "out").exists()


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


def read(**variables: str) -> Keeping | None:
    return settings.read({"TRILHO_MODEL_DIR": "x", **variables}).predictions


def test_nothing_is_kept_unless_a_place_is_named() -> None:
    assert read() is None
    assert read(TRILHO_LOG_SAMPLE="0.5") is None


def test_settings_are_read() -> None:
    found = read(
        TRILHO_PREDICTION_LOG="s3://b/p",
        TRILHO_LOG_COLUMNS="age, city",
        TRILHO_LOG_SENSITIVE='["a,b"]',
        TRILHO_LOG_HASH_KEY="k",
        TRILHO_LOG_SPOOL_MB="1.5",
        TRILHO_LABEL_DAILY="7",
    )
    assert found is not None
    assert (found.url, found.columns, found.sensitive) == ("s3://b/p", ("age", "city"), ("a,b",))
    assert (found.hash_key, found.spool_bytes, found.daily) == ("k", 1_572_864, 7)
    empty = read(TRILHO_PREDICTION_LOG="s3://b/p", TRILHO_LOG_COLUMNS="[]")
    assert empty is not None
    assert empty.columns == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRILHO_LOG_SAMPLE", "1.5"),
        ("TRILHO_LOG_FORMAT", "csv"),
        ("TRILHO_LABEL_BAND", "x"),
        ("TRILHO_LABEL_DAILY", "1.5"),
        ("TRILHO_LOG_COLUMNS", "[1]"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name):
        read(TRILHO_PREDICTION_LOG="out", **{name: value})


def test_parquet_needs_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "parquet_is_possible", lambda: False)
    with pytest.raises(UsageError, match="pyarrow"):
        read(TRILHO_PREDICTION_LOG="out", TRILHO_LOG_FORMAT="parquet")


def test_a_wrong_place_stops_the_start_with_one_message(folder: Path, tmp_path: Path) -> None:
    for variables, told in (
        ({"TRILHO_PREDICTION_LOG": "s3://B_/x"}, "bucket"),
        ({"TRILHO_PREDICTION_LOG": "x", "TRILHO_LOG_SPOOL": "/proc/no"}, "spool"),
    ):
        code, line = served.fail(
            TRILHO_MODEL_DIR=folder, **({"TRILHO_LOG_SPOOL": tmp_path} | variables)
        )
        assert code == 2
        assert told in msgspec.json.encode(line).decode()
