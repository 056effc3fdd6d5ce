"""The whole pull-request job beside a bare script that reads, fits and scores the same model."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import PYTHON, ROOT, TRILHO, Row, Usage, in_turn, run, table

# HOLD is a verdict like another here: slices of repeated rows are no better known than before.
DONE = (0, 5)


PREPARE = (
    "import sys, pathlib\nfrom benchmarks.job import workplace\n"
    "workplace(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
)


def workplace(folder: Path, copies: int) -> None:
    """Lay out the example project over `copies` times its rows, each copy with its own ids."""
    shutil.copytree(ROOT / "data_schemas", folder / "data_schemas")
    shutil.copytree(ROOT / "src/credit_default", folder / "src/credit_default")
    for name in ("pipeline.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "data").mkdir()
    path = folder / "data/credit_default.csv"
    import pandas as pd  # not in the process that measures

    frame = pd.read_csv(ROOT / "data/credit_default.csv")
    if copies == 1:
        shutil.copy(ROOT / "data/credit_default.csv", path)
        return
    repeated = pd.concat([frame] * copies, ignore_index=True)
    repeated["ID"] = range(1, len(repeated) + 1)
    repeated.to_csv(path, index=False)


def job(folder: Path) -> Callable[[], Usage]:
    """`trilho retrain` with nothing to reuse: validate, train, evaluate, gate, report."""

    def once() -> Usage:
        shutil.rmtree(folder / ".trilho/run", ignore_errors=True)
        return run([TRILHO, "retrain", "--force"], folder, done=DONE)

    return once


def champion(folder: Path) -> None:
    """Publish a champion, so that the job has something to compare with."""
    other = ["--set", "model.params.max_iter=80"]
    run([TRILHO, "retrain", *other], folder, done=DONE)
    run([TRILHO, "publish", "--allow-hold", *other], folder)
    run(
        [
            PYTHON,
            "-c",
            "from trilho.registry import Source, open_registry\n"
            "r = open_registry('.trilho/registry')\n"
            "r.move_alias('champion', 1, expected=None, source=Source.current(), reason='first')",
        ],
        folder,
    )


def measure(copies: int, rounds: int, time_bound: float) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # by a process of its own: a child's peak memory counts from its parent's
        subprocess.run([PYTHON, "-c", PREPARE, str(folder), str(copies)], cwd=ROOT, check=True)
        data = folder / "data/credit_default.csv"
        champion(folder)
        ours, bare = in_turn(
            job(folder),
            lambda: run([PYTHON, str(ROOT / "benchmarks/bare.py"), str(data)], folder),
            rounds,
        )
        size = f"{30_000 * copies:,} rows"
        rows = [
            Row(
                f"whole job with a champion, {size}: time",
                f"{ours.seconds:.1f} s",
                f"{bare.seconds:.1f} s",
                ours.seconds / bare.seconds,
                time_bound,
            ),
            Row(
                f"whole job with a champion, {size}: peak memory",
                f"{ours.peak:.0f} MB",
                f"{bare.peak:.0f} MB",
                ours.peak / bare.peak,
                1.25 if copies > 1 else 2.5,
            ),
        ]
        if copies == 1:
            again, full = in_turn(lambda: run([TRILHO, "retrain"], folder), job(folder), rounds)
            rows.append(
                Row(
                    "rerun with unchanged inputs, beside the full run",
                    f"{again.seconds:.2f} s",
                    f"{full.seconds:.2f} s",
                    again.seconds / full.seconds,
                    0.1,
                )
            )
        return rows


def main() -> str:
    rows = measure(1, 5, 4.0) + measure(34, 3, 1.5)
    return table(
        "The whole pull-request job",
        "python -m benchmarks job",
        "Peer: `benchmarks/bare.py`, which reads the CSV, fits the same model and scores it once. "
        "The job validates, trains, proves the serving form, evaluates with 2,000 paired resamples "
        "against a champion, gates and writes both reports.",
        rows,
    )
