"""One row: the compiled form beside `predict_proba` of the pipeline that it was made from."""

from __future__ import annotations

import json
import os
import subprocess

from benchmarks.measure import PYTHON, ROOT
from benchmarks.serving.models import Place
from benchmarks.serving.servers import COMMON

# In turn, many times, by the process's own time: what else runs on the machine then hurts least.
PROGRAM = """
import json, statistics, sys, time
from pathlib import Path
import joblib, pandas as pd
from trilho import bundle, compiled
from trilho.serving.columns import Columns
folder = Path(sys.argv[1])
frame = pd.read_csv(sys.argv[2]).head(1)
pipeline, form = joblib.load(folder / "model.joblib"), compiled.load(folder)
columns = Columns(bundle.read_signature(folder))
arrays = columns.from_lists({name: frame[name].tolist() for name in frame}, 1).columns
assert abs(pipeline.predict_proba(frame)[0, 1] - form.predict(arrays)[0]) < 1e-9
def seconds(call, argument, times):
    start = time.process_time()
    for _ in range(times):
        call(argument)
    return (time.process_time() - start) / times
for call, argument in ((form.predict, arrays), (pipeline.predict_proba, frame)):
    seconds(call, argument, 20)
pairs = [
    (seconds(form.predict, arrays, 1000), seconds(pipeline.predict_proba, frame, 15))
    for _ in range(int(sys.argv[3]))
]
print(json.dumps([statistics.median(p) for p in zip(*pairs)]))
"""


def one_row(kind: str, place: Place, rounds: int = 9) -> tuple[float, float]:
    """Return the microseconds of the compiled form, and of scikit-learn."""
    files = [place.bundle(kind), place.folder / "rows.csv"]
    done = subprocess.run(
        [PYTHON, "-c", PROGRAM, *map(str, files), str(rounds)],
        cwd=ROOT,
        env=os.environ | COMMON,
        capture_output=True,
        text=True,
        check=True,
    )
    compiled, pipeline = json.loads(done.stdout)
    return compiled * 1e6, pipeline * 1e6
