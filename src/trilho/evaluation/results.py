"""What an evaluation found, as plain records: read by gates and report, stored as JSON.

Records are `msgspec.Struct`s: typed, frozen, decoded with validation, cheap to import.
"""

from __future__ import annotations

from msgspec import Struct

# Every metric of a task, and whether a larger value is the better one.
METRICS: dict[str, dict[str, bool]] = {
    "binary": {
        "roc_auc": True,
        "gini": True,
        "ks": True,
        "average_precision": True,
        "log_loss": False,
        "brier": False,
        "ece": False,
        "accuracy": True,
        "balanced_accuracy": True,
        "precision": True,
        "recall": True,
        "f1": True,
    },
    "multiclass": {
        "roc_auc_ovr": True,
        "log_loss": False,
        "brier": False,
        "ece": False,
        "accuracy": True,
        "balanced_accuracy": True,
        "precision_macro": True,
        "recall_macro": True,
        "f1_macro": True,
        "precision_weighted": True,
        "recall_weighted": True,
        "f1_weighted": True,
    },
    "regression": {"r2": True, "mse": False, "rmse": False, "mae": False, "mape": False},
}
# The metric that ranks models of a task: free of scale and of threshold, so that one default margin
# suits every dataset.
PRIMARY = {"binary": "roc_auc", "multiclass": "roc_auc_ovr", "regression": "r2"}


class Estimate(Struct, frozen=True, kw_only=True):
    """A metric on the hold-out with its bootstrap interval."""

    value: float | None  # None: not defined on these rows (one class only, for example)
    low: float | None = None
    high: float | None = None


class Slice(Struct, frozen=True, kw_only=True):
    """Metrics on the hold-out rows of one group, `column == label` or a bin of `column`."""

    column: str
    label: str
    rows: int
    positives: int | None = None  # binary only
    metrics: dict[str, Estimate]


class FairnessGroup(Struct, frozen=True, kw_only=True):
    label: str
    rows: int
    selection_rate: float | None
    true_positive_rate: float | None


class Fairness(Struct, frozen=True, kw_only=True):
    """Rates by group of one protected column; a gap is the largest minus the smallest rate."""

    column: str
    groups: list[FairnessGroup]
    selection_rate_gap: Estimate
    true_positive_rate_gap: Estimate


class CalibrationBin(Struct, frozen=True, kw_only=True):
    rows: int
    mean_predicted: float
    observed: float


class ThresholdRow(Struct, frozen=True, kw_only=True):
    threshold: float
    selected: float  # share of rows at or above the threshold
    precision: float | None
    recall: float
    f1: float
    accuracy: float


class Curve(Struct, frozen=True, kw_only=True):
    """A curve of at most 200 points."""

    x: list[float]
    y: list[float]


class Importance(Struct, frozen=True, kw_only=True):
    """Permutation importance: loss of the primary metric when the column is shuffled."""

    feature: str
    mean: float
    sd: float


class Evaluation(Struct, frozen=True, kw_only=True):
    """One model on the frozen hold-out. Deterministic: no times, no measured latency."""

    task: str  # binary | multiclass | regression
    primary: str  # the metric that ranks models of this task
    rows: int
    resamples: int
    confidence: float
    classes: list[str] | None = None
    threshold: float | None = None
    metrics: dict[str, Estimate]
    slices: list[Slice] = []
    fairness: list[Fairness] = []
    calibration: list[CalibrationBin] = []
    confusion: list[list[int]] | None = None  # rows: truth, columns: prediction
    thresholds: list[ThresholdRow] = []
    roc: Curve | None = None
    precision_recall: Curve | None = None
    # counts in 20 equal bins of the score (multiclass: of the top probability; regression: of the
    # residual, truth minus prediction) between the two ends of `score_range`
    score_histogram: list[int] = []
    score_range: list[float] = []
    importance: list[Importance] = []
    # how well each column alone ranks the target (roc_auc, or |Spearman|): a leak shows as ~1
    single_feature: dict[str, float] = {}


class Difference(Struct, frozen=True, kw_only=True):
    """Candidate minus champion, paired on the same rows."""

    candidate: float | None
    champion: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None


class SliceDifference(Struct, frozen=True, kw_only=True):
    column: str
    label: str
    rows: int
    metrics: dict[str, Difference]


class Flips(Struct, frozen=True, kw_only=True):
    """Rows whose decision turned, with up to ten row ids each."""

    fixed: int
    broken: int
    fixed_ids: list[str] = []
    broken_ids: list[str] = []


class ColumnChange(Struct, frozen=True, kw_only=True):
    """What changed in one column since the champion's training data."""

    column: str
    change: str  # added | removed | drifted | same
    psi: float | None = None
    missing_before: float | None = None
    missing_now: float | None = None


class DataChange(Struct, frozen=True, kw_only=True):
    rows_before: int
    rows_now: int
    columns: list[ColumnChange]


class Comparison(Struct, frozen=True, kw_only=True):
    """Candidate beside champion on the same frozen hold-out rows."""

    champion_digest: str
    champion_version: int | None = None
    rows: int = 0
    confidence: float = 0.95
    resamples: int = 0
    metrics: dict[str, Difference] = {}
    slices: list[SliceDifference] = []
    fairness: dict[str, dict[str, Difference]] = {}
    flips: Flips | None = None
    data: DataChange | None = None
    # set when the champion cannot be scored on these rows; then nothing above is filled
    impossible: str | None = None
    # why the comparison is not quite fair, such as another split
    caveats: list[str] = []


class Measurements(Struct, frozen=True, kw_only=True):
    """Measured on this machine, so not part of a bundle's identity."""

    row_microseconds: float  # median time of a one-row prediction by the form that will serve
    batch_microseconds: float  # per row, in batches of 1,000
    model_bytes: int
    champion_row_microseconds: float | None = None  # measured in the same run
