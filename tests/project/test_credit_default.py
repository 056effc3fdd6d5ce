"""The example project: honest features, good enough, compiled exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_score

from credit_default.features import BILL, PAID, STATUS, features
from credit_default.model import build
from trilho import compiled
from trilho.bundle import Column, Signature
from trilho.training import proof
from trilho.training.columns import from_frame
from trilho.training.compile import compile_model

TARGET = "default_next_month"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pd.read_csv(ROOT / "data" / "credit_default.csv")


def test_five_fold_roc_auc_is_at_least_078(data: pd.DataFrame) -> None:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = build(random_state=0)
    scores = cross_val_score(
        model, data.drop(columns=TARGET), data[TARGET], cv=folds, scoring="roc_auc"
    )
    assert scores.mean() >= 0.78


def test_features_look_neither_at_the_target_nor_at_protected_columns(data: pd.DataFrame) -> None:
    seen: set[str] = set()

    class Watched(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            seen.add(name)
            return super().__getitem__(name)

    features(Watched({name: data[name].to_numpy(float) for name in data}))
    assert seen == {"LIMIT_BAL", *STATUS, *BILL, *PAID}


def test_features_of_one_client() -> None:
    client = {"LIMIT_BAL": 1000.0}
    client |= dict(zip(STATUS, [2.0, 1.0, 0.0, -1.0, -2.0, -2.0], strict=True))
    client |= dict(zip(BILL, [600.0, 500.0, 400.0, -50.0, 0.0, 100.0], strict=True))
    client |= dict(zip(PAID, [100.0, 200.0, 0.0, 0.0, 50.0, 10.0], strict=True))
    found = features({name: np.array([value]) for name, value in client.items()})
    expected = {
        "worst_status": 2.0,
        "months_late": 2.0,
        "months_unused": 2.0,
        "delay": 3.0,
        "recent_delay": 6 * 2 + 5 * 1.0,
        "utilisation_0": 0.6,
        "utilisation": 1550 / 6 / 1000,
        "utilisation_trend": 0.5,
        "paid_share_0": 100 / 500,
        "paid_share_1": 200 / 400,
        "paid_share_2": 0.0,
        "paid_share_3": 0.0,
        "paid_share_4": 0.5,
        "paid_total": 360.0,
        "paid_share": 360 / 1550,
        "paid_least": 0.0,
        "paid_most": 200.0,
        "owed_of_limit": 0.5,
    }
    assert {name: found[name][0] for name in expected} == pytest.approx(expected)


def test_the_compiled_form_is_exact(data: pd.DataFrame, tmp_path: Path) -> None:
    x, y = data.drop(columns=["ID", TARGET]), data[TARGET]
    model = build(random_state=0, max_iter=30).fit(x[:20_000], y[:20_000])
    signature = Signature(
        columns=[Column(name=name, kind="number") for name in x],
        target=TARGET,
        task="binary",
        classes=[0, 1],
        positive=1,
        threshold=0.3,
    )
    compile_model(model, signature, tmp_path)
    form = compiled.load(tmp_path)
    assert "SEX" not in form.columns
    held = x[20_000:]
    largest, scores = proof.prove(model, form, held, from_frame(held, signature), signature, 0.3)
    assert largest <= 1e-12
    assert scores.std() > 0.1
