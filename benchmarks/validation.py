"""Validation of 1,000,000 rows beside bare pandera on the same schema: time and memory."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import PYTHON, ROOT, Row, in_turn, run, table

ROWS = 1_000_000
SCHEMA = ROOT / "data_schemas/credit_default.yaml"
ROUNDS = 5

DATA = """
import sys
import pandas as pd
rows = int(sys.argv[2])
frame = pd.read_csv(sys.argv[1])
frame = pd.concat([frame] * (rows // len(frame) + 1), ignore_index=True).head(rows)
frame["ID"] = range(1, rows + 1)
frame.to_csv("data.csv", index=False)
print(frame.memory_usage(index=False).sum())
"""
# Reading, column summary, schema, dataset checks: what `trilho validate` does.
OURS = """
import json, sys, time
from trilho.config import Data
from trilho.dataset import read
from trilho.schema import validate
data = Data.model_validate(json.loads(sys.argv[1]))
dataset = read(data)
start = time.perf_counter()
result = validate(dataset, data)
print(json.dumps({"seconds": time.perf_counter() - start}))
assert result.ok, result.failures
"""
# Reading and the schema: what a script would do.
BARE = """
import json, sys, time
import pandas as pd
from pandera.io.pandas_io import from_yaml
data = json.loads(sys.argv[1])
frame = pd.read_csv(data["path"])
start = time.perf_counter()
from_yaml(data["schema"]).validate(frame, lazy=True)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def main() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # written by a process of its own: a child's peak memory counts from its parent's
        run([PYTHON, "-c", DATA, str(ROOT / "data/credit_default.csv"), str(ROWS)], folder)
        megabytes = float((folder / "benchmark.log").read_text()) / 1e6
        data = json.dumps(
            {
                "path": str(folder / "data.csv"),
                "schema": str(SCHEMA),
                "target": "default_next_month",
                "id": "ID",
            }
        )
        inside: dict[str, list[float]] = {"ours": [], "bare": []}

        def process(code: str, kind: str) -> Any:
            usage = run([PYTHON, "-c", code, data], folder)
            printed = json.loads((folder / "benchmark.log").read_text().splitlines()[-1])
            inside[kind].append(printed["seconds"])
            return usage

        ours, bare = in_turn(lambda: process(OURS, "ours"), lambda: process(BARE, "bare"), ROUNDS)
    within = {kind: statistics.median(seconds[1:]) for kind, seconds in inside.items()}
    peak, bare_peak = ours.peak * 1.048576, bare.peak * 1.048576  # measured in units of 2^20
    rows = [
        Row(
            "validating the frame, summary and dataset checks included: time",
            f"{within['ours']:.2f} s",
            f"{within['bare']:.2f} s",
            within["ours"] / within["bare"],
            1.2,
        ),
        Row(
            f"peak memory of the process over the frame ({megabytes:.0f} MB)",
            f"{peak:.0f} MB",
            f"{bare_peak:.0f} MB ({bare_peak / megabytes:.2f})",
            peak / megabytes,
            2.5,
        ),
    ]
    return table(
        "Validation of 1,000,000 rows",
        "python -m benchmarks validation",
        "Peer: bare pandera (`lazy=True`) on the same schema, in processes of their own, in turn. "
        "Trilho also summarises each column and checks the dataset as a whole. The ratio of the "
        "last row is to the frame, not to the peer. The whole processes, with imports and reading "
        f"(and for Trilho the digest), took {ours.seconds:.2f} s and {bare.seconds:.2f} s "
        f"({ours.seconds / bare.seconds:.2f}).",
        rows,
    )


if __name__ == "__main__":
    print(main())
