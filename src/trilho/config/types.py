"""The sections of `pipeline.yaml`: the docstring of each key is its documentation."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Scalar = str | int | float | bool


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Split(Section):
    """How rows are held out. The hold-out is frozen: adding rows never moves an old row."""

    method: Literal["random", "time", "group"] = "random"
    """`random`: by a seeded hash of the row id, within each class; `time`: the latest rows by
    `column`; `group`: whole groups of `column`, by a seeded hash of the group."""
    column: str | None = None
    """The time or group column; needed by `time` and `group`."""
    cutoff: str | None = None
    """`time` only: rows at or after this date are held out. Without it the latest `holdout` share
    is, and the boundary moves as rows are added."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of rows (or of groups) that is held out."""
    seed: int = 42
    """Seed of the hash. Another seed is another hold-out: the champion may have seen its rows."""

    @model_validator(mode="after")
    def _column(self) -> Split:
        if (self.method == "random") == (self.column is not None):
            need = "takes no" if self.method == "random" else "needs a"
            raise ValueError(f"split method '{self.method}' {need} 'column'")
        if self.cutoff is not None and self.method != "time":
            raise ValueError(f"split method '{self.method}' takes no 'cutoff'")
        return self


class Freshness(Section):
    """The newest date of a column must not be too old."""

    column: str
    """A date column."""
    max_age_days: Annotated[float, Field(gt=0)]
    """Largest age of its newest date, in days."""


class Checks(Section):
    """Checks of the dataset as a whole; the schema checks columns and rows."""

    min_rows: Annotated[int, Field(ge=1)] = 100
    """Fewest rows accepted."""
    class_share: tuple[Share, Share] = (0.001, 0.999)
    """Bounds of each class's share of the rows (classification)."""
    unique: list[str] = []
    """Columns that may not repeat a value; the `id` column is always checked."""
    max_missing: Share = 1.0
    """Largest share of missing values in any one column."""
    freshness: Freshness | None = None
    """How old the newest row may be."""


class Data(Section):
    """The dataset, its schema and its roles."""

    path: str
    """CSV, gzipped CSV (`.csv.gz`) or Parquet; a local path or `s3://bucket/key`."""
    schema_: Annotated[str, Field(alias="schema")]
    """The pandera schema: a `.yaml` in pandera's form, or a `.py` that defines `schema`."""
    target: str
    """The column to predict."""
    task: Literal["binary", "multiclass", "regression"] | None = None
    """What to predict; guessed from the target when left out."""
    positive: Scalar | None = None
    """Binary: the class of interest; the larger of the two when left out."""
    id: str | None = None
    """The column that names a row. Without it a row is named by the hash of its content."""
    drop: list[str] = []
    """Columns that the model may not see."""
    encoding: str = "utf-8"
    """Text encoding of a CSV."""
    split: Split = Split()
    """How rows are held out."""
    checks: Checks = Checks()
    """Checks of the dataset as a whole."""


class Range(Section):
    """A range to search: integers when both ends are integers."""

    low: float | int
    """Lowest value."""
    high: float | int
    """Highest value."""
    log: bool = False
    """Search by order of magnitude."""

    @model_validator(mode="after")
    def _order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"'low' ({self.low}) must be below 'high' ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError("a 'log' range must start above 0")
        return self


class Search(Section):
    """Hyper-parameter search by cross-validation on the training rows."""

    enabled: bool = True
    """`false`: search only when asked to, by `--search on`; `--search off` goes without."""
    method: Literal["random", "halving"] = "random"
    """`random`: RandomizedSearchCV; `halving`: HalvingRandomSearchCV."""
    space: dict[str, Range | list[Any]]
    """Parameter of the estimator, by its full or a unique short name, to a range or a list."""
    iterations: Annotated[int, Field(ge=1)] = 20
    """How many settings to try."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Cross-validation folds."""
    metric: str | None = None
    """A scikit-learn scorer; the task's primary metric when left out."""
    budget_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop after this time with the best setting so far; such a search is not repeatable."""


class Threshold(Section):
    """Choose the decision threshold on out-of-fold scores of the training rows."""

    maximise: Literal["f1", "balanced_accuracy", "accuracy", "ks"]
    """The metric to maximise."""
    folds: Annotated[int, Field(ge=2)] = 3
    """Cross-validation folds."""


class Model(Section):
    """What to fit."""

    factory: str | None = None
    """`package.module:function` that returns an unfitted estimator; called with `params`."""
    estimator: str | None = None
    """Instead of a factory: the dotted path of an estimator, such as `sklearn.svm.SVC`. Text and
    missing values are then preprocessed by Trilho."""
    params: dict[str, Any] = {}
    """Keyword arguments of the factory or the estimator."""
    seed: int = 42
    """Given to every `random_state` that is unset."""
    search: Search | None = None
    """Optional hyper-parameter search."""
    threshold: Share | Threshold = 0.5
    """Binary: the score from which the positive class is decided, or how to choose it."""

    @model_validator(mode="after")
    def _one(self) -> Model:
        if (self.factory is None) == (self.estimator is None):
            raise ValueError("give exactly one of 'factory' and 'estimator'")
        if self.factory is not None and not re.fullmatch(r"[\w.]+:\w+", self.factory):
            raise ValueError(
                f"'factory' must look like package.module:function, not {self.factory!r}"
            )
        return self


class SliceBy(Section):
    """A column to slice by, with bins when it is continuous."""

    column: str
    """The column."""
    bins: list[float] | None = None
    """Inner edges: [30, 50] makes <30, 30 to 50 and >=50. Left out: each value is a slice."""


class Evaluation(Section):
    """How the hold-out is judged."""

    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Bootstrap resamples of each interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of each interval."""
    slices: list[str | SliceBy] = []
    """Columns whose groups are judged one by one."""
    fairness: list[str | SliceBy] = []
    """Protected columns: selection and true positive rates are compared between their groups."""
    seed: int = 42
    """Seed of the resampling."""


class Limit(Section):
    """Bounds of a metric."""

    min: float | None = None
    """Lowest value accepted."""
    max: float | None = None
    """Highest value accepted."""

    @model_validator(mode="after")
    def _some(self) -> Limit:
        if self.min is None and self.max is None:
            raise ValueError("give 'min', 'max' or both")
        return self


class SliceGate(Section):
    """No slice may be bad."""

    metric: str | None = None
    """The metric judged; the task's primary metric when left out."""
    min: float | None = None
    """Absolute bound for each slice (`max` for errors)."""
    max: float | None = None
    """Absolute bound for each slice where smaller is better."""
    margin: Annotated[float, Field(ge=0)] = 0.05
    """How much worse than the champion a slice may be."""
    min_rows: Annotated[int, Field(ge=1)] = 200
    """Smaller slices are shown, not judged."""


class FairnessGate(Section):
    """Largest gaps accepted between the groups of a protected column."""

    selection_rate_gap: Share = 0.2
    """Largest minus smallest share of positive decisions."""
    true_positive_rate_gap: Share = 0.2
    """Largest minus smallest recall."""


class LatencyGate(Section):
    """Prediction time of one row, measured in the form that will serve."""

    max_microseconds: Annotated[float, Field(gt=0)] = 50_000
    """Absolute bound."""
    max_ratio: Annotated[float, Field(gt=1)] = 5
    """Bound relative to the champion, measured in the same run."""


class Gates(Section):
    """What a candidate must hold. Every gate is on; a section only moves its bounds."""

    limits: dict[str, Limit] | None = None
    """Metric to absolute bounds. Left out: better than guessing (see docs/gates.md)."""
    champion: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Metric to the margin by which the candidate may be worse than the champion. Left out: the
    primary metric, 0.01."""
    slices: SliceGate = SliceGate()
    """No slice may be bad."""
    fairness: FairnessGate = FairnessGate()
    """Gaps between protected groups."""
    calibration: Share = 0.1
    """Largest expected calibration error (classification)."""
    leakage: Share = 0.98
    """Largest strength of any single column alone (ROC AUC, or absolute Spearman correlation)."""
    latency: LatencyGate = LatencyGate()
    """Prediction time."""
    size_megabytes: Annotated[float, Field(gt=0)] = 200
    """Largest size of the model's files."""


class Strategy(Section):
    """How traffic goes from the old tasks to the new ones. All but `rolling` run both side by side
    and shift the load balancer's traffic; docs/deployment.md says what the service needs for it."""

    method: Literal["rolling", "canary", "linear", "blue-green"]
    """`rolling`: tasks are replaced a few at a time; `canary`: `percent` of the traffic first, the
    rest after `step_minutes`; `linear`: `percent` more every `step_minutes`; `blue-green`: all of
    it at once, when all new tasks are healthy."""
    percent: Annotated[float, Field(ge=0.1, le=100)] | None = None
    """`canary` and `linear`: share of the traffic in a step; 5 and 10 when left out."""
    step_minutes: Annotated[int, Field(ge=0, le=1440)] | None = None
    """`canary` and `linear`: how long a step is watched; 10 and 6 when left out."""
    bake_minutes: Annotated[int, Field(ge=0, le=1440)] | None = None
    """All but `rolling`: how long the old tasks stay after the last traffic left them; 5 when left
    out. Until then going back takes seconds."""
    alarms: list[str] = []
    """CloudWatch alarms, by name, that end the deployment and bring the old tasks back. Left out:
    those that the service names itself."""

    @model_validator(mode="after")
    def _fitting(self) -> Strategy:
        steps = self.method in ("canary", "linear")
        for name, taken in (
            ("percent", steps),
            ("step_minutes", steps),
            ("bake_minutes", self.method != "rolling"),
        ):
            if getattr(self, name) is not None and not taken:
                raise ValueError(f"strategy '{self.method}' takes no '{name}'")
        if self.percent is not None and round(self.percent, 1) != self.percent:
            raise ValueError(f"'percent' has one decimal at most, not {self.percent:g}")
        if self.method == "linear" and self.percent is not None and self.percent < 3:
            raise ValueError(
                f"strategy 'linear' takes a 'percent' of 3 or more, not {self.percent:g}"
            )
        return self


class Deploy(Section):
    """The ECS service that runs the model."""

    cluster: str
    """ECS cluster, by name."""
    service: str
    """ECS service, by name."""
    container: str | None = None
    """The container that serves, where the task definition has several."""
    url: str | None = None
    """Base URL for the smoke test, such as `https://model.example.com`."""
    strategy: Strategy | None = None
    """How traffic moves to the new tasks. Left out: as the service's own settings say, which is
    `rolling` unless somebody changed them."""
    timeout_minutes: Annotated[float, Field(gt=0)] = 15
    """How long a deployment may take before it is rolled back; the minutes that its strategy waits
    on purpose come on top."""
    smoke_timeout_seconds: Annotated[float, Field(gt=0)] = 60
    """How long the new model may take to answer at the URL."""
    smoke_max_milliseconds: Annotated[float, Field(gt=0)] = 1000
    """Slowest median answer that the smoke test accepts."""


class Pipeline(Section):
    """What to train, how to judge it, where to ship it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """The model's name: lower case, digits and dashes."""
    registry: str = ".trilho/registry"
    """Where bundles, versions and aliases live: `s3://bucket/prefix` or a folder."""
    data: Data
    model: Model
    evaluation: Evaluation = Evaluation()
    gates: Gates = Gates()
    deploy: Deploy | None = None


def section_of(annotation: Any) -> type[Section] | None:
    """The first Section class inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := section_of(inner):
            return found
    return None
