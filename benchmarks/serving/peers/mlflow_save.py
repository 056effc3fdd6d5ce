"""Write a model for `mlflow models serve`, with the signature that MLflow advises.

python mlflow_save.py MODEL.joblib ROWS.csv TO
"""

import sys

import joblib
import mlflow
import pandas as pd
from mlflow.models import infer_signature

model, rows, to = joblib.load(sys.argv[1]), pd.read_csv(sys.argv[2]), sys.argv[3]
mlflow.sklearn.save_model(
    model,
    to,
    signature=infer_signature(rows, model.predict_proba(rows)),
    serialization_format="cloudpickle",
    pip_requirements=["scikit-learn"],
    pyfunc_predict_fn="predict_proba",
)
