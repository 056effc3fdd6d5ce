"""A pipeline and a schema that work on a new dataset as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from trilho.config import Data
from trilho.config.reference import json_schema
from trilho.dataset import ColumnSummary, Dataset, read, summarise
from trilho.dataset.source import suffix
from trilho.errors import UsageError
from trilho.schema.inference import infer, quote

MOSTLY = 0.8  # a column with a larger share of missing values is left out
ID_NAME = re.compile(
    r"(^|[^a-z])(id|ids|uid|uuid|guid|key|index|rownum|row)$|[a-z0-9](Id|ID|Uuid|UUID|Key)$",
)


@dataclass(frozen=True)
class Roles:
    """Which column names a row, and which are not for the model, each with the reason."""

    id: str | None
    drop: dict[str, str]


def init(csv: Path, target: str, folder: Path) -> list[Path]:
    """Write `pipeline.yaml`, its JSON Schema, a drafted schema and a `.gitignore`.

    Parameters
    ----------
    csv
        The dataset: CSV, gzipped CSV or Parquet; a local path or an `s3://` address.
    target
        The column to predict.
    folder
        Where to write. Commands are meant to run there.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    UsageError
        A file is there already, or a name cannot be written into a pipeline.
    DataError
        The dataset cannot be read, or its target cannot be learnt.
    """
    path = _path(csv, folder)
    stem = Path(path).name[: -len(suffix(path))]
    schema = f"data_schemas/{re.sub(r'[^A-Za-z0-9_.-]+', '_', stem) or 'data'}.yaml"
    there = [n for n in ("pipeline.yaml", "pipeline.schema.json", schema) if (folder / n).exists()]
    if there:
        raise UsageError(
            f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} there already; "
            "nothing was written.",
            hint="Remove or rename it, or run in an empty folder.",
        )
    source = str(csv) if not str(csv).startswith("s3:/") else path
    data = {"path": source, "schema": schema, "target": target}
    first = read(Data.model_validate(data))
    roles = find_roles(first)
    for name in (path, target, roles.id or "", *roles.drop):
        if "${" in name:
            raise UsageError(
                f"The name {name!r} holds '${{', which a pipeline reads as a variable; rename it."
            )
    # Read again with the roles: what is inferred is then what will be validated.
    dataset = read(Data.model_validate(data | {"id": roles.id, "drop": list(roles.drop)}))
    written = {
        "pipeline.yaml": pipeline_text(dataset, roles, path, schema, _name(stem)),
        "pipeline.schema.json": json_schema(),
        schema: infer(dataset.frame, target, unique=roles.id),
    }
    ignored = folder / ".gitignore"
    lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
    if not {".trilho", ".trilho/", "/.trilho/"} & set(lines):
        written[".gitignore"] = "\n".join([*lines, ".trilho/"]) + "\n"
    return save({folder / name: text for name, text in written.items()})


def save(texts: dict[Path, str]) -> list[Path]:
    """Write files, with the folders that they need; return their paths."""
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _path(csv: Path, folder: Path) -> str:
    """The dataset as the pipeline names it: relative to the folder when it lies there."""
    text = str(csv)
    if text.startswith("s3:/"):
        return "s3://" + text.removeprefix("s3:/").lstrip("/")  # Path folds the double slash
    whole = csv.resolve()
    root = folder.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _name(stem: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    return name[:63].strip("-") or "model"


def find_roles(dataset: Dataset) -> Roles:
    """Choose the id, and the columns that a model is better off without."""
    columns = [c for c in summarise(dataset.frame) if c.name != dataset.target]
    frame, rows = dataset.frame, len(dataset.frame)
    names = [c.name for c in columns if _names_rows(c, frame[c.name], rows)]
    # a column that is called an id goes before one that merely looks like one
    names.sort(key=lambda name: ID_NAME.search(name) is None)
    chosen = names[0] if names else None
    drop = {}
    for column in columns:
        if column.name != chosen and (reason := _useless(column, rows, column.name in names)):
            drop[column.name] = reason
    if len(drop) + (chosen is not None) == len(columns):
        # nothing would be left to learn from: leave the choice to the reader
        drop = {}
        chosen = chosen if len(columns) > 1 else None
    return Roles(chosen, drop)


def _names_rows(column: ColumnSummary, values: pd.Series, rows: int) -> bool:
    """Tell whether a column is unique and looks like an id."""
    if column.unique != rows or rows < 2 or column.kind not in ("integer", "string"):
        return False
    if ID_NAME.search(column.name):
        return True
    if column.kind == "integer":
        assert isinstance(column.min, float)
        assert isinstance(column.max, float)
        return column.max - column.min + 1 == rows  # a counter
    texts = values.astype("str").str
    return bool((texts.len().nunique() == 1) and not texts.contains(r"\s", regex=True).any())


def _useless(column: ColumnSummary, rows: int, names_rows: bool) -> str | None:
    """Return why a model is better off without the column, or None."""
    known = rows - column.missing
    if column.unique == 0:
        return "no value is known"
    if column.unique == 1 and column.missing == 0:
        return "the same value in every row"
    if column.missing > MOSTLY * rows:
        return f"{column.missing / rows:.0%} of the values are missing"
    if column.unique == 1:
        return "one value only, or missing"
    if names_rows:
        return "names the row, as the id does"
    if ID_NAME.search(column.name) and column.kind in ("integer", "string") and column.unique > 50:
        return "an id that repeats; if rows of one belong together, split by group"
    if column.kind == "string" and column.unique > max(50, known // 2):
        return "nearly every value differs"
    return None


def pipeline_text(dataset: Dataset, roles: Roles, path: str, schema: str, name: str) -> str:
    """Return the commented `pipeline.yaml` of a new dataset."""
    kind = "Regressor" if dataset.task == "regression" else "Classifier"
    lines = [
        "# yaml-language-server: $schema=pipeline.schema.json",
        "# What to train, how to judge it, where to ship it. Editors complete the keys by the line",
        "# above; each key is described in pipeline.schema.json.",
        f"name: {quote(name)}",
        "",
        "# Bundles, versions and aliases; for a team s3://bucket/prefix.",
        "registry: ${TRILHO_REGISTRY:-.trilho/registry}",
        "",
        "data:",
        f"  path: {quote(path)}",
        f"  schema: {quote(schema)}",
        f"  target: {quote(dataset.target)}",
        f"  task: {dataset.task}",
    ]
    if dataset.positive is not None:
        lines += [
            f"  positive: {quote(dataset.positive)} # the class whose probability is predicted"
        ]
    if roles.id is not None:
        lines += [f"  id: {quote(roles.id)} # names a row, so that the hold-out stays frozen"]
    else:
        lines += ["  # id: a column that names a row; without it the content of a row is its name"]
    if roles.drop:
        lines += ["  # Not for the model:", "  drop:"]
        lines += [f"    - {quote(column)} # {why}" for column, why in roles.drop.items()]
    lines += [
        "  split: # the hold-out is frozen by a hash of the row id",
        "    method: random # or: time (with column), group (with column)",
        "    holdout: 0.25",
        "  checks:",
        f"    min_rows: {max(1, len(dataset.frame) // 2)}",
    ]
    if dataset.classes is not None:
        rarest = dataset.frame[dataset.target].value_counts(normalize=True).min()
        low = min(0.01, float(f"{rarest / 2:.1g}"))
        lines += [f"    class_share: [{low:g}, {1 - low:g}]"]
    lines += [
        "",
        "model:",
        "  # Text, dates and missing values are prepared for it. For a model of your own name a",
        "  # function instead: `factory: package.module:function`.",
        f"  estimator: sklearn.ensemble.HistGradientBoosting{kind}",
        "  params:",
        "    max_iter: 100",
        "    learning_rate: 0.1",
        "",
        "# evaluation:",
        "#   slices: [a column]            # no group may be bad",
        "#   fairness: [a protected one]   # decisions are compared between its groups",
        "",
        "# gates:                          # each gate is on by default; this moves its bounds",
        "#   calibration: 0.1",
        "",
        "# The ECS service that runs the model; the workflows set these variables.",
        "deploy:",
        "  cluster: ${TRILHO_CLUSTER:-trilho}",
        f"  service: ${{TRILHO_SERVICE:-{name}}}",
        "  url: ${TRILHO_SERVICE_URL:-}",
    ]
    return "\n".join(lines) + "\n"
