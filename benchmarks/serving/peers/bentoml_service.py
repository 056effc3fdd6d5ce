"""BentoML as its documentation has it: a data frame in, a list out."""

import os

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=1)
class Credit:
    def __init__(self) -> None:
        self.model = joblib.load(os.environ["MODEL"])

    @bentoml.api
    def predict(self, rows: pd.DataFrame) -> list[float]:
        return self.model.predict_proba(rows)[:, 1].tolist()
