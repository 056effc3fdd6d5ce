"""`pipeline.yaml` as types: every key documented, unknown keys refused, environment filled in."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trilho.errors import Place, UsageError, nearest

DEFAULT_PATH = Path("pipeline.yaml")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

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

    method: Literal["random", "halving"] = "random"
    """`random`: RandomizedSearchCV; `halving`: HalvingRandomSearchCV."""
    space: dict[str, Range | list[Any]]
    """Parameter name (as `set_params` takes it, or a factory parameter) to a range or a list."""
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
    timeout_minutes: Annotated[float, Field(gt=0)] = 15
    """How long a deployment may take before it is rolled back."""
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


def load(path: Path = DEFAULT_PATH, overrides: dict[str, Any] | None = None) -> Pipeline:
    """Read a pipeline file.

    Parameters
    ----------
    path
        The YAML file.
    overrides
        Dotted keys to values that replace the file's, such as `{"model.params.max_iter": 50}`.

    Raises
    ------
    UsageError
        Naming file, line and key: file missing, not YAML, unknown or wrong keys, unset variables.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist.",
            hint="Run `trilho init data.csv --target COLUMN` to write one, or pass --config.",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text.", places=(Place(str(path)),)) from None
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(str(path), mark.line + 1 if mark else None)
        problem = (error.problem or "cannot be read").splitlines()[0]
        raise UsageError(f"{place} is not valid YAML: {problem}.", places=(place,)) from None
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path} must hold keys such as 'name' and 'data'.", places=(Place(str(path)),)
        )
    values = _fill(tree, path)
    for dotted, value in (overrides or {}).items():
        _override(values, dotted, value)
    try:
        return Pipeline.model_validate(values)
    except ValidationError as error:
        raise _explain(error, path, tree) from None


def json_schema() -> str:
    """Return the JSON Schema of `pipeline.yaml`, for editors."""
    schema = Pipeline.model_json_schema(by_alias=True)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema
    return json.dumps(schema, indent=2) + "\n"


def _fill(node: Any, path: Path, line: int | None = None) -> Any:
    """Copy the tree as plain Python, with `${NAME}` and `${NAME:-default}` filled in."""
    if isinstance(node, dict):
        lines = getattr(node, "lc", None)
        return {
            str(k): _fill(v, path, lines.data[k][0] + 1 if lines and k in lines.data else line)
            for k, v in node.items()
        }
    if isinstance(node, list):
        return [_fill(v, path, line) for v in node]
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, int):
        return int(node)  # ruamel's number types carry formatting
    if isinstance(node, float):
        return float(node)
    if not isinstance(node, str):
        return node

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None:
            place = Place(str(path), line)
            raise UsageError(
                f"{place}: the environment variable {name} is not set.",
                hint=f"Set it, or write ${{{name}:-default}}.",
                places=(place,),
            )
        return found

    return VARIABLE.sub(value, str(node))


def _override(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = values
    for key in parents:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise UsageError(f"Cannot set '{dotted}': '{key}' is not a section of the pipeline.")
        node = child
    node[last] = value


def _explain(error: ValidationError, path: Path, tree: Any) -> UsageError:
    """Turn pydantic's findings into lines of `file:line: key: what is wrong`."""
    lines, places = [], []
    for found in error.errors(include_url=False, include_context=False):
        keys = [k for k in found["loc"] if isinstance(k, int) or not _is_tag(k)]
        place = Place(str(path), _line(tree, keys))
        key = ".".join(str(k) for k in keys) or "pipeline"
        match found["type"]:
            case "extra_forbidden":
                known = _known(keys[:-1])
                problem = f"is not a known key{nearest(str(keys[-1]), known)}"
                if not problem.endswith("?"):
                    problem += f"; known here: {', '.join(known)}"
            case "missing":
                problem = "is missing"
            case _:
                problem = found["msg"].removeprefix("Value error, ")
                problem = problem[0].lower() + problem[1:]
        line = f"{place}: {key}: {problem}"
        if line not in lines:
            lines.append(line)
            places.append(place)
    return UsageError(
        "\n".join(lines), hint="Every key is described in docs/pipeline.md.", places=tuple(places)
    )


def _is_tag(key: str) -> bool:
    """Tell pydantic's names of union members from keys of the file."""
    return bool(re.match(r"(str|int|float|bool|list\[|function-|constrained-|[A-Z]\w+$)", key))


def _line(tree: Any, keys: list[Any]) -> int | None:
    """The line of the deepest key of the path that stands in the file."""
    line = None
    node = tree
    for key in keys:
        try:
            line = node.lc.data[key][0] + 1
            node = node[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def _known(keys: list[Any]) -> list[str]:
    """The keys that the section at this path knows."""
    section: Any = Pipeline
    for key in keys:
        if isinstance(key, int):
            continue
        for name, field in section.model_fields.items():
            if key in (name, field.alias):
                section = _section(field.annotation)
                break
        if section is None:
            return []
    return [field.alias or name for name, field in section.model_fields.items()]


def _section(annotation: Any) -> type[Section] | None:
    """The first Section class inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _section(inner):
            return found
    return None
