"""Made-up documents of a run, whole and plausible, for the tests of the report."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from trilho.bundle import DatasetInfo, File, Manifest
from trilho.dataset.summary import ColumnSummary
from trilho.evaluation.results import (
    CalibrationBin,
    ColumnChange,
    Comparison,
    Curve,
    DataChange,
    Difference,
    Estimate,
    Evaluation,
    Fairness,
    FairnessGroup,
    Flips,
    Importance,
    Measurements,
    Slice,
    SliceDifference,
    ThresholdRow,
)
from trilho.gates import GateResult, Status, Verdict, Word
from trilho.report import ReportInputs
from trilho.schema.records import Example, Failure, Validation

CANDIDATE = "sha256:" + "1a2b3c4d" * 8
CHAMPION = "sha256:" + "9f8e7d6c" * 8
FEATURES = ["PAY_0", "LIMIT_BAL", "utilisation_mean", "BILL_AMT1", "PAY_AMT2", "months_late", "AGE"]


def about(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def moved(candidate: float, champion: float, half: float) -> Difference:
    d = candidate - champion
    return Difference(
        candidate=candidate, champion=champion, difference=d, low=d - half, high=d + half
    )


def gate(name: str, status: Status = "pass", subject: str = "roc_auc", **more: Any) -> GateResult:
    values: dict[str, Any] = {
        "value": 0.7853, "bound": 0.75, "low": 0.7741, "high": 0.7962, "rows_needed": None,
        "message": f"{subject} is 0.7853, at least 0.75 is asked.",
    }  # fmt: skip
    return GateResult(gate=name, subject=subject, status=status, **(values | more))


def verdict(
    word: Word = "PROMOTE", summary: str | None = None, results: list[GateResult] | None = None
) -> Verdict:
    return Verdict(
        verdict=word,
        candidate=CANDIDATE,
        champion=CHAMPION,
        summary=summary
        or "The candidate ranks better than champion v3 (ROC AUC +0.0061) and holds every limit.",
        results=results
        if results is not None
        else [
            gate("limits"),
            gate("champion", value=0.0061, bound=-0.01, low=0.0012, high=0.0111),
            gate("slices", subject="EDUCATION=4"),
            gate("fairness", "skip", "SEX", value=None, low=None, high=None),
        ],
    )


def validation(failures: list[Failure] | None = None) -> Validation:
    return Validation(
        path="data/credit_default.csv",
        digest="sha256:" + "0123456789abcdef" * 4,
        schema="data_schemas/credit_default.yaml",
        rows=30_000,
        columns=[
            ColumnSummary(name=f, dtype="int64", kind="integer", missing=0, unique=9)
            for f in FEATURES
        ],
        failures=failures or [],
    )


def failure(column: str | None, check: str, count: int, values: list[str]) -> Failure:
    examples = [Example(row=str(1000 + i), line=1002 + i, value=v) for i, v in enumerate(values)]
    message = f"{count} values of {column} fail {check}."
    return Failure(
        column=column, check=check, count=count, message=message, file="a.csv", examples=examples
    )


def manifest(task: str = "binary") -> Manifest:
    return Manifest(
        name="credit-default",
        task=task,
        fingerprint="sha256:" + "c" * 64,
        dataset=DatasetInfo(digest="sha256:" + "d" * 64, rows=30_000, holdout_rows=7_500),
        lock="sha256:" + "e" * 64,
        split="sha256:" + "f" * 64,
        serving="compiled",
        largest_difference=4.4e-16,
        metrics={"roc_auc": 0.7853},
        parameters={"learning_rate": 0.05, "max_iter": 300, "max_leaf_nodes": 15},
        environment={"python": "3.13.5", "scikit-learn": "1.9.1"},
        files={"model.joblib": File(sha256="sha256:" + "a" * 64, size=812_345)},
    )


def binary_evaluation() -> Evaluation:
    grid = [i / 60 for i in range(61)]
    groups = [("SEX", "1", 2973), ("SEX", "2", 4527), ("EDUCATION", "1", 2641),
              ("EDUCATION", "2", 3507), ("EDUCATION", "3", 1231), ("EDUCATION", "4", 31),
              ("AGE", "<30", 2410), ("AGE", "30 to 50", 4433), ("AGE", ">=50", 657)]  # fmt: skip
    return Evaluation(
        task="binary",
        primary="roc_auc",
        rows=7_500,
        resamples=2_000,
        confidence=0.95,
        classes=["0", "1"],
        threshold=0.31,
        metrics={
            "roc_auc": about(0.7853), "gini": about(0.5706, 0.02), "ks": about(0.4316, 0.02),
            "average_precision": about(0.5561, 0.02), "log_loss": about(0.4267, 0.008),
            "brier": about(0.1342, 0.003), "ece": about(0.0087, 0.004),
            "accuracy": about(0.8021), "recall": about(0.5612), "f1": about(0.5387),
        },
        slices=[
            Slice(column=c, label=x, rows=n, positives=n // 5,
                  metrics={"roc_auc": about(0.77 + 0.004 * i, 2.5 / math.sqrt(n))})
            for i, (c, x, n) in enumerate(groups)
        ],
        fairness=[
            Fairness(
                column="SEX",
                groups=[
                    FairnessGroup(label="1", rows=2973, selection_rate=0.25,
                                  true_positive_rate=0.57),
                    FairnessGroup(label="2", rows=4527, selection_rate=0.21,
                                  true_positive_rate=0.55),
                ],
                selection_rate_gap=about(0.04),
                true_positive_rate_gap=about(0.02, 0.03),
            )
        ],
        calibration=[
            CalibrationBin(rows=750, mean_predicted=0.03 + 0.08 * i, observed=0.04 + 0.079 * i)
            for i in range(10)
        ],
        confusion=[[5085, 756], [728, 931]],
        thresholds=[
            ThresholdRow(threshold=t / 100, selected=0.9 - t / 120, precision=0.2 + t / 150,
                         recall=1 - t / 110, f1=0.4 + t * (70 - t) / 9000,
                         accuracy=0.5 + t * (90 - t) / 6500)
            for t in range(5, 100, 5)
        ],
        roc=Curve(x=grid, y=[x**0.35 for x in grid]),
        precision_recall=Curve(x=grid, y=[1 - 0.75 * x**0.6 for x in grid]),
        score_range=[0.0, 1.0],
        score_histogram=[1430, 1802, 1204, 803, 504, 371, 251, 206, 166, 147, 122, 104, 93, 82,
                         71, 63, 49, 27, 5, 0],
        importance=[Importance(feature=f, mean=0.09 / (i + 1) ** 1.4, sd=0.002 / (i + 1))
                    for i, f in enumerate(FEATURES)],
        single_feature={f: 0.71 - 0.025 * i for i, f in enumerate(FEATURES)},
    )  # fmt: skip


def binary_comparison() -> Comparison:
    e = binary_evaluation()
    return Comparison(
        champion_digest=CHAMPION,
        champion_version=3,
        rows=7_500,
        resamples=2_000,
        metrics={
            "roc_auc": moved(0.7853, 0.7792, 0.0049), "gini": moved(0.5706, 0.5584, 0.0098),
            "ks": moved(0.4316, 0.4251, 0.0131), "average_precision": moved(0.5561, 0.5478, 0.0079),
            "log_loss": moved(0.4267, 0.4301, 0.0021), "brier": moved(0.1342, 0.1355, 0.0009),
            "ece": moved(0.0087, 0.0081, 0.0041), "accuracy": moved(0.8021, 0.8013, 0.0038),
            "recall": moved(0.5612, 0.5749, 0.0092), "f1": moved(0.5387, 0.5362, 0.0061),
        },
        slices=[
            SliceDifference(column=s.column, label=s.label, rows=s.rows,
                            metrics={"roc_auc": moved(0.77 + 0.004 * i, 0.768 + 0.0035 * i,
                                                      1.1 / math.sqrt(s.rows))})
            for i, s in enumerate(e.slices)
        ],
        flips=Flips(fixed=143, broken=121, fixed_ids=["17", "204", "988"], broken_ids=["5", "61"]),
        data=DataChange(
            rows_before=27_000,
            rows_now=30_000,
            columns=[
                ColumnChange(column="PAY_0", change="same", psi=0.004,
                             missing_before=0.0, missing_now=0.0),
                ColumnChange(column="LIMIT_BAL", change="drifted", psi=0.31,
                             missing_before=0.0, missing_now=0.012),
                ColumnChange(column="AGE", change="drifted", psi=0.13),
                ColumnChange(column="utilisation_mean", change="added"),
            ],
        ),
        caveats=["The champion was trained on another split: it may have seen some of these rows."],
    )  # fmt: skip


def binary() -> ReportInputs:
    """Return a candidate that beats champion v3."""
    return ReportInputs(
        name="credit-default",
        manifest=manifest(),
        digest=CANDIDATE,
        evaluation=binary_evaluation(),
        comparison=binary_comparison(),
        verdict=verdict(),
        validation=validation(),
        measurements=Measurements(
            row_microseconds=41.7, batch_microseconds=3.9, model_bytes=812_345,
            champion_row_microseconds=38.2,
        ),
        reproduce="git checkout 1f2e3d4 && trilho train --config pipeline.yaml",
        run_url="https://github.com/octo/credit/actions/runs/123456",
    )  # fmt: skip


def first() -> ReportInputs:
    """Return the first candidate ever: no champion."""
    return replace(binary(), comparison=None)


def rejected() -> ReportInputs:
    results = [
        gate("limits"),
        gate("champion", "fail", value=-0.0412, bound=-0.01, low=-0.0501, high=-0.0323,
             message="roc_auc is 0.0412 below the champion; 0.01 is allowed."),
        gate("slices", "unsure", "MARRIAGE=3", rows_needed=1_900,
             message="The interval straddles the margin."),
    ]  # fmt: skip
    why = "ROC AUC is worse than champion v3 by 0.0412, and 0.01 is allowed."
    return replace(binary(), verdict=verdict("REJECT", why, results))


def invalid() -> ReportInputs:
    """Return a run that stopped at the schema."""
    failures = [
        failure("AGE", "in_range(18, 100)", 3, ["-4", "0", "312"]),
        failure("EDUCATION", "isin([0, 1, 2, 3, 4, 5, 6])", 1, ["PhD"]),
        failure(None, "no_duplicate_ids", 2, []),
    ]
    return ReportInputs(name="credit-default", validation=validation(failures))


def multiclass(classes: int = 4) -> ReportInputs:
    labels = [f"kind {i}" for i in range(classes)]
    evaluation = Evaluation(
        task="multiclass",
        primary="roc_auc_ovr",
        rows=1_000,
        resamples=2_000,
        confidence=0.95,
        classes=labels,
        metrics={
            "f1_macro": about(0.81),
            "roc_auc_ovr": about(0.95),
            "log_loss": about(0.512),
            "accuracy": about(0.83),
        },
        slices=[
            Slice(column="region", label="north", rows=420, metrics={"roc_auc_ovr": about(0.93)})
        ],
        score_range=[0.25, 1.0],
        score_histogram=[1, 4, 9, 20, 31, 44, 57, 70, 90, 120, 554],
        confusion=[[200 if i == j else 7 + i for j in range(classes)] for i in range(classes)],
        importance=[Importance(feature="length", mean=0.21, sd=0.01)],
        single_feature={"length": 0.8},
    )
    return ReportInputs(
        name="kinds", manifest=manifest("multiclass"), digest=CANDIDATE, evaluation=evaluation,
        verdict=verdict("HOLD", "The interval of F1 macro straddles the margin.", []),
    )  # fmt: skip


def regression() -> ReportInputs:
    evaluation = Evaluation(
        task="regression",
        primary="r2",
        rows=5_160,
        resamples=2_000,
        confidence=0.95,
        metrics={"rmse": about(48_211.4, 912.0), "mae": about(31_804.2, 400), "r2": about(0.829)},
        slices=[
            Slice(column="ocean", label=x, rows=1000 + 300 * i,
                  metrics={"r2": about(0.8 + 0.01 * i, 0.03)})
            for i, x in enumerate(["INLAND", "NEAR BAY", "<1H OCEAN"])
        ],
        score_range=[-250_000.0, 250_000.0],
        score_histogram=[2, 5, 14, 40, 96, 210, 500, 880, 1100, 1009, 640, 330, 170, 90, 40, 20,
                         8, 4, 1, 1],
        importance=[Importance(feature="income", mean=31_000.0, sd=400.0),
                    Importance(feature="rooms", mean=4_100.0, sd=120.0)],
        single_feature={"income": 0.68, "rooms": 0.26},
    )  # fmt: skip
    comparison = Comparison(
        champion_digest=CHAMPION, champion_version=12, rows=5_160, resamples=2_000,
        metrics={"rmse": moved(48_211.4, 49_730.1, 600), "mae": moved(31_804.2, 31_790, 310),
                 "r2": moved(0.829, 0.818, 0.004)},
    )  # fmt: skip
    return ReportInputs(
        name="house-prices", manifest=manifest("regression"), digest=CANDIDATE,
        evaluation=evaluation, comparison=comparison, verdict=verdict(),
    )  # fmt: skip


ALL = {
    "binary": binary,
    "first": first,
    "rejected": rejected,
    "invalid": invalid,
    "multiclass": multiclass,
    "many classes": lambda: multiclass(30),
    "regression": regression,
    "nothing": lambda: ReportInputs(name="empty"),
}
