"""The peer of the whole job: read, fit and score the same model with scikit-learn, nothing else."""

import sys

import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from credit_default.model import build

frame = pd.read_csv(sys.argv[1])
y = frame.pop("default_next_month")
X_train, X_test, y_train, y_test = train_test_split(
    frame, y, test_size=0.25, stratify=y, random_state=42
)
model = build().fit(X_train, y_train)
print(roc_auc_score(y_test, model.predict_proba(X_test)[:, 1]))
