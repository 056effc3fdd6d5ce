"""What is served and asked: two trained models, and the same rows in each server's words."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import PYTHON, ROOT, TRILHO, run

KINDS = {"lr": "logistic regression", "hgb": "gradient boosting, 100 trees"}
SMALL, LARGE = 1, 1000  # rows of a request

# By processes of their own: the one that measures imports no pandas.
BODIES = """
import json, sys
from pathlib import Path
import joblib, pandas as pd
folder = Path(sys.argv[1])
frame = pd.read_csv(folder / "data/credit_default.csv").drop(columns=["ID", "default_next_month"])
kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
(folder / "columns.json").write_text(json.dumps(kinds))
frame.head(1000).to_csv(folder / "rows.csv", index=False)
for rows in map(int, sys.argv[2].split(",")):
    part = frame.tail(rows)
    records = json.loads(part.to_json(orient="records"))
    split = json.loads(part.to_json(orient="split", index=False))
    tensors = [
        {"name": name, "shape": [rows], "data": part[name].tolist(),
         "datatype": {"int64": "INT64", "float64": "FP64"}[kind]}
        for name, kind in kinds.items()
    ]
    bodies = {
        "records": records,
        "split": {"dataframe_split": split},
        "rows": {"rows": records},
        "v2": {"parameters": {"content_type": "pd"}, "inputs": tensors,
               "outputs": [{"name": "predict_proba"}]},
    }
    for shape, body in bodies.items():
        (folder / f"{shape}-{rows}.json").write_text(json.dumps(body))
    for kind in sys.argv[3].split(","):
        model = joblib.load(folder / kind / "bundle/model.joblib")
        expected = model.predict_proba(part)[:, 1].tolist()
        (folder / f"expected-{kind}-{rows}.json").write_text(json.dumps(expected))
"""


@dataclass(frozen=True)
class Place:
    """The folder with both models and all bodies."""

    folder: Path

    def bundle(self, kind: str) -> Path:
        return self.folder / kind / "bundle"

    def archive(self, kind: str) -> Path:
        """The same fitted object, as scikit-learn's users keep it."""
        return self.bundle(kind) / "model.joblib"

    def body(self, shape: str, rows: int) -> Path:
        return self.folder / f"{shape}-{rows}.json"

    def expected(self, kind: str, rows: int) -> list[float]:
        """What scikit-learn itself predicts."""
        found: list[float] = json.loads(
            (self.folder / f"expected-{kind}-{rows}.json").read_text(encoding="utf-8")
        )
        return found


def prepare(folder: Path) -> Place:
    """Train both models in `folder`, and write the bodies of the requests."""
    for name in ("data_schemas", "data"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pipeline.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "src").mkdir()
    shutil.copy(Path(__file__).with_name("factories.py"), folder / "src/served_models.py")
    for kind in KINDS:
        factory = f"model.factory=served_models:{kind}"
        run([TRILHO, "train", "--run", str(folder / kind), "--set", factory], folder)
        manifest = json.loads((folder / kind / "bundle/manifest.json").read_text(encoding="utf-8"))
        if manifest["serving"] != "compiled":
            raise RuntimeError(f"{kind} was not compiled: {manifest.get('serving_reason')}")
    run([PYTHON, "-c", BODIES, str(folder), f"{SMALL},{LARGE}", ",".join(KINDS)], folder)
    return Place(folder)
