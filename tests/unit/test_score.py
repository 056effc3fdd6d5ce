"""`trilho score`: the service's numbers for whole files, complete or not there at all."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import served
from pyarrow import parquet
from served import CLASSES, ROW, ROWS, THRESHOLD, expected, running
from waiting import PATIENCE

from trilho import bundle
from trilho.errors import ConflictError, DataError, UsageError
from trilho.scoring import Scored, score
from trilho.scoring.parts import Job, Parts
from trilho.serving import predictor
from trilho.serving.predictor import Predictor

NAMES = ["who", *(column.name for column in served.COLUMNS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("score") / "bundle"
    served.make_bundle(path, id="who")
    return path


def load(folder: Path) -> Predictor:
    return predictor.load(folder, *bundle.verify(folder), version="7")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Predictor:
    return load(folder)


def some(n: int) -> list[dict[str, Any]]:
    """Rows of all sorts, the integer `age` and the id telling them apart."""
    return [{**ROWS[i % 4], "age": i % 120, "who": f"0{i}"} for i in range(n)]


def write_csv(path: Path, rows: list[dict[str, Any]], names: list[str] = NAMES) -> Path:
    texts = {True: "true", False: "false", None: ""}
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(names)
        for row in rows:
            values = (row.get(name) for name in names)
            out.writerow([texts[v] if isinstance(v, bool | None) else v for v in values])
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = pa.table({name: [row.get(name) for row in rows] for name in NAMES})
    parquet.write_table(table, path, compression="zstd", row_group_size=333)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8") as file:
        return [{**r, "prediction": float(r["prediction"])} for r in csv.DictReader(file)]


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("result", [".csv", ".csv.gz", ".parquet"])
def test_scores_each_row_in_its_place(
    tiny: Predictor, tmp_path: Path, ending: str, result: str
) -> None:
    rows = some(1000)
    write = write_parquet if ending == ".parquet" else write_csv
    data, out = write(tmp_path / f"in{ending}", rows), tmp_path / "deep" / f"out{result}"
    done = score(tiny, str(data), str(out), chunk=300)
    assert (done.rows, done.resumed_rows, done.digest) == (1000, 0, tiny.identity.digest)
    found = read(out)
    assert [row["who"] for row in found] == [row["who"] for row in rows]
    wanted = [expected(row) for row in rows]
    assert [row["prediction"] for row in found] == pytest.approx(wanted, abs=1e-12)
    assert [row["decision"] for row in found] == [CLASSES[p >= THRESHOLD] for p in wanted]
    assert list(found[0]) == ["who", "prediction", "decision"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # nothing else is left


def test_the_numbers_are_those_of_the_service(folder: Path, tmp_path: Path) -> None:
    rows = some(500)
    data = write_csv(tmp_path / "in.csv", rows)
    score(load(folder), str(data), str(tmp_path / "out.csv"), chunk=64)
    found = [row["prediction"] for row in read(tmp_path / "out.csv")]
    with running(TRILHO_MODEL_DIR=folder) as service:
        assert service.predict(rows)[1]["predictions"] == found  # to the last bit
        for i in range(20):
            assert service.predict(rows[i])[1]["predictions"] == [found[i]]


def test_scores_other_tasks(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "in.csv", ROWS)
    served.make_bundle(tmp_path / "m", "multiclass")
    score(load(tmp_path / "m"), str(data), str(tmp_path / "m.parquet"))
    for row, given in zip(
        ROWS, parquet.read_table(tmp_path / "m.parquet").to_pylist(), strict=True
    ):
        shares = [given[f"probability_{label}"] for label in "abc"]
        assert shares == pytest.approx(expected(row, "multiclass"), abs=1e-12)
        assert given["decision"] == "abc"[shares.index(max(shares))]
    served.make_bundle(tmp_path / "r", "regression")
    score(load(tmp_path / "r"), str(data), str(tmp_path / "r.csv"))
    found = [row["prediction"] for row in read(tmp_path / "r.csv")]
    assert found == pytest.approx([expected(row, "regression") for row in ROWS], abs=1e-12)
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == "prediction"


def test_ids_that_are_missing_in_a_whole_part_do_not_spoil_a_parquet(
    tiny: Predictor, tmp_path: Path
) -> None:
    rows = [{**ROW, "who": None}, {**ROW, "who": None}, {**ROW, "who": "x"}]
    data = write_parquet(tmp_path / "in.parquet", rows)
    score(tiny, str(data), str(tmp_path / "out.parquet"), chunk=2)
    assert [row["who"] for row in read(tmp_path / "out.parquet")] == [None, None, "x"]


def test_texts_that_need_quotes_come_back_whole(tiny: Predictor, tmp_path: Path) -> None:
    ids = ['a,"b"', "c\nd", "\u2028", " x "]
    data = write_csv(tmp_path / "in.csv", [{**ROW, "who": id} for id in ids])
    score(tiny, str(data), str(tmp_path / "out.csv"), chunk=3)
    assert [row["who"] for row in read(tmp_path / "out.csv")] == ids


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


def refused(model: Predictor, data: Path, tmp_path: Path, chunk: int = 100) -> DataError:
    out = tmp_path / "out.csv"
    with pytest.raises(DataError) as caught:
        score(model, str(data), str(out), chunk=chunk)
    assert not out.exists()
    assert not Path(f"{out}.parts").exists()
    return caught.value


def test_a_wrong_value_is_told_with_column_and_row(tiny: Predictor, tmp_path: Path) -> None:
    rows = some(1000)
    rows[7]["who"] = "two\nlines"
    rows[777]["age"] = "old"
    data = write_csv(tmp_path / "in.csv", rows)
    error = refused(tiny, data, tmp_path)
    # the header, a line for each row before, and one more for the id of two lines
    assert error.message == f"{data}:780 (row 778): column 'age': expected number."
    assert (error.places[0].path, error.places[0].line) == (str(data), 780)
    rows[777]["age"] = None
    data = write_parquet(tmp_path / "in.parquet", rows)
    error = refused(tiny, data, tmp_path)
    assert error.message == f"{data}, row 778: column 'age': expected number, got null."


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("who,aeg,married\n1,2,true\n", "no column 'age'; did you mean 'aeg'?; the model needs it"),
        ("", "empty"),
        ("who,age,married\n", "a header but no rows"),
        ("age,married,age\n1,true,2\n", "names the column 'age' twice"),
        ("age,married\n1,true\n1\n", "expected 2 values"),
        ("age,married\n1,true\n1,perhaps\n", "column 'married': expected true or false"),
        ("age,married\n1.5,true\n", "column 'age': expected a whole number"),
        ('age,married\n1,"tr\n', "cannot be read as CSV"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tiny: Predictor, tmp_path: Path, content: str, told: str
) -> None:
    (tmp_path / "in.csv").write_text(content)
    error = refused(tiny, tmp_path / "in.csv", tmp_path)
    assert told in error.message
    assert error.message.startswith(str(tmp_path / "in.csv"))


def test_damaged_files_are_refused(tiny: Predictor, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("age,married,city\n1,true,São\n".encode("latin-1"))
    assert "UTF-8" in refused(tiny, tmp_path / "latin.csv", tmp_path).message
    whole = write_csv(tmp_path / "in.csv.gz", some(2000)).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as CSV" in refused(tiny, tmp_path / "cut.csv.gz", tmp_path).message
    whole = write_parquet(tmp_path / "in.parquet", some(2000)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as Parquet" in refused(tiny, tmp_path / "cut.parquet", tmp_path).message


def test_nothing_is_overwritten_unasked(tiny: Predictor, tmp_path: Path) -> None:
    data, out = write_csv(tmp_path / "in.csv", ROWS), tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        score(tiny, str(data), str(out))
    assert out.read_text() == "mine"
    assert not Path(f"{out}.parts").exists()
    score(tiny, str(data), str(out), overwrite=True)
    assert len(read(out)) == 4


def test_a_folder_of_somebody_else_is_left_alone(tiny: Predictor, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "in.csv", ROWS)
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        score(tiny, str(data), str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv.parts" / "thesis.txt").read_text() == "mine"


def test_two_at_once_do_not_mix(tiny: Predictor, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "in.csv", ROWS)
    job = Job(input="x", model="y", chunk=1, suffix=".csv", columns=[])
    with (
        Parts(tmp_path / "out.csv.parts", job).opened(),
        pytest.raises(ConflictError, match="Another process"),
    ):
        score(tiny, str(data), str(tmp_path / "out.csv"))


# ── the verb, killed ──────────────────────────────────────────────────────────────────────────────


def command(folder: Path, data: Path, out: Path, *more: str) -> list[str]:
    code = "from trilho.cli import main; main()"
    arguments = ["score", str(data), str(out), "--bundle", str(folder), "--json", *more]
    return [sys.executable, "-c", code, *arguments]


def run(folder: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        command(folder, data, out, *more), capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_killed_it_goes_on_and_the_result_is_the_same(
    folder: Path, tmp_path: Path, ending: str
) -> None:
    write = write_parquet if ending == ".parquet" else write_csv
    data = write(tmp_path / f"in{ending}", some(8_000))
    out, whole = tmp_path / f"out{ending}", tmp_path / f"whole{ending}"
    chunk = ("--chunk", "50")
    process = subprocess.Popen(command(folder, data, out, *chunk), stderr=subprocess.DEVNULL)
    parts = Path(f"{out}.parts")
    until = time.monotonic() + PATIENCE
    while len(list(parts.glob(f"0*{ending}"))) < 5:
        assert process.poll() is None, "it was done too soon"
        assert time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob(f"0*{ending}")}
    assert 5 <= len(before) < 160

    again = run(folder, data, out, *chunk)
    assert again["rows"] == 8_000
    assert again["resumed_rows"] == 50 * len(before)
    assert run(folder, data, whole, *chunk)["resumed_rows"] == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()


def test_what_was_made_of_another_file_is_not_used(tiny: Predictor, tmp_path: Path) -> None:
    data, out = write_csv(tmp_path / "in.csv", some(100)), tmp_path / "out.csv"

    class Killed(BaseException):
        pass

    def kill(_: float, rows: int) -> None:
        if rows == 50:
            raise Killed

    def started() -> None:
        with pytest.raises(Killed):
            score(tiny, str(data), str(out), chunk=10, progress=kill)
        assert not out.exists()

    def finished(chunk: int = 10) -> Scored:
        done = score(tiny, str(data), str(out), chunk=chunk, overwrite=True)
        wanted = [expected(row) for row in rows]
        assert [row["prediction"] for row in read(out)] == pytest.approx(wanted, abs=1e-12)
        out.unlink()
        return done

    rows = some(100)
    started()
    assert finished().resumed_rows == 50
    started()
    assert finished(chunk=20).resumed_rows == 0
    started()
    rows[3]["age"] = 99
    write_csv(data, rows)
    assert finished().resumed_rows == 0


def test_killed_between_its_name_and_the_cleaning_it_is_done_again_unasked(
    tiny: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_csv(tmp_path / "in.csv", some(100)), tmp_path / "out.csv"
    monkeypatch.setattr(Parts, "remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        score(tiny, str(data), str(out), chunk=10)
    monkeypatch.undo()
    assert len(read(out)) == 100
    assert score(tiny, str(data), str(out), chunk=10).resumed_rows == 100
    assert len(read(out)) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_the_verb_refuses_in_one_message(folder: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "in.csv", [{**ROW, "age": "old"}])
    done = subprocess.run(
        command(folder, data, tmp_path / "out.csv"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "in.csv:2 (row 1): column 'age': expected number" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [*command(folder, data, tmp_path / "out.csv"), "--version", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not both" in done.stderr


def test_memory_does_not_grow_with_the_file(folder: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from trilho import bundle\n"
        "from trilho.scoring import score\n"
        "from trilho.serving import predictor\n"
        "folder = Path(sys.argv[1])\n"
        "model = predictor.load(folder, *bundle.verify(folder), version=None)\n"
        "score(model, sys.argv[2], sys.argv[3], chunk=2000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )

    def peak(rows: int) -> int:
        data = write_csv(tmp_path / f"{rows}.csv", some(rows))
        arguments = [str(folder), str(data), str(tmp_path / f"out{rows}.csv")]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    # all of it would take about 500 bytes a row: 60 MB
    assert peak(124_000) < peak(4000) + 15_000


def test_the_result_gets_its_name_in_one_step(
    tiny: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_csv(tmp_path / "in.csv", some(100)), tmp_path / "out.csv"
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if target == out:
            assert len(source.read_text().splitlines()) == 101  # whole by then
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        score(tiny, str(data), str(out), chunk=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv.parts"]
    monkeypatch.undo()
    assert score(tiny, str(data), str(out), chunk=10).resumed_rows == 100
