"""FastAPI as it is usually written: rows checked by pydantic, a data frame, `predict_proba`.

The endpoint is a coroutine: in the thread pool work as short as this would be slower.
"""

import json
import os
from pathlib import Path

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import create_model

model = joblib.load(os.environ["MODEL"])
kinds = {"int64": int, "float64": float}
columns = json.loads(Path(os.environ["COLUMNS"]).read_text())
Row = create_model("Row", **{name: (kinds[kind], ...) for name, kind in columns.items()})
app = FastAPI()


@app.post("/predict")
async def predict(rows: list[Row]) -> dict[str, list[float]]:
    frame = pd.DataFrame([row.model_dump() for row in rows])
    return {"predictions": model.predict_proba(frame)[:, 1].tolist()}
