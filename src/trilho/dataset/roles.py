"""A dataset whose columns have roles: target, row id, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trilho.bundle import sha256_file
from trilho.config import Data
from trilho.dataset import source
from trilho.dataset.hashing import content_names
from trilho.dataset.summary import column_kinds
from trilho.dataset.table import read_table
from trilho.errors import DataError, Place, UsageError, nearest

Label = str | int | float | bool
MOST_CLASSES = 20  # a whole-number target with more distinct values is a quantity


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory, as `pipeline.yaml` describes it.

    Attributes
    ----------
    path, file
        As configured, and the local file (the cached one of an S3 object).
    digest
        `sha256:<hex>` of the file's bytes.
    frame
        All columns, all rows, in the order of the file; the index is 0, 1, 2, ...
    features
        The columns that the model sees: all but target, id and dropped ones.
    task
        `binary`, `multiclass` or `regression`.
    classes
        The sorted values of the target; None for regression.
    positive
        The class of interest; None unless binary.
    """

    path: str
    file: Path
    digest: str
    frame: pd.DataFrame
    names: pd.Index | None
    target: str
    id: str | None
    features: list[str]
    task: str
    classes: list[Label] | None
    positive: Label | None
    encoding: str = "utf-8"

    @cached_property
    def ids(self) -> pd.Index:
        """The name of each row, as text: its id, or else the hash of its content.

        Rows of equal content have equal names, so they never stand on both sides of the split. The
        target is no part of the name: correcting a label does not move a row.
        """
        if self.names is not None:
            return self.names
        return content_names(self.frame.drop(columns=self.target))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Kind of each feature: number, integer, boolean, string or date."""
        return column_kinds(self.frame[self.features])

    def x(self) -> pd.DataFrame:
        """Return the features; a boolean column with gaps as 1.0, 0.0 and NaN."""
        x = self.frame[self.features]
        gaps = [name for name in x if isinstance(x[name].dtype, pd.BooleanDtype)]
        return x.astype(dict.fromkeys(gaps, "float64")) if gaps else x

    def y(self) -> np.ndarray[Any, Any]:
        """Return the target: one of `classes` for each row, or the number of a regression."""
        values = self.frame[self.target]
        return values.to_numpy(dtype=object if values.dtype.kind == "O" else None)


def read(data: Data) -> Dataset:
    """Read the dataset that a pipeline names.

    Raises
    ------
    UsageError
        The pipeline names columns or classes that cannot be, or a kind of file Trilho cannot read.
    DataError
        The file is missing or damaged, or its target cannot be learnt. See also `read_table`.
    """
    file = source.local(data.path)
    frame, names = read_table(data.path, file, data.encoding, data.id)
    features = _features(data, list(frame.columns))
    if data.id is not None and (gaps := np.flatnonzero(frame[data.id].isna())).size:
        raise DataError(
            f"{_row(data, file, gaps)}: the id column '{data.id}' has {gaps.size} missing values; "
            "each row needs a name.",
            places=(_place(data, file, gaps),),
        )
    task, classes = _task(data, frame[data.target], file)
    return Dataset(
        path=data.path,
        file=file,
        digest=sha256_file(file),
        frame=frame,
        names=names,
        target=data.target,
        id=data.id,
        features=features,
        task=task,
        classes=classes,
        positive=_positive(data, task, classes),
        encoding=data.encoding,
    )


def _features(data: Data, columns: list[str]) -> list[str]:
    """Check that the named columns are there, and return those left for the model."""
    named = {"data.target": data.target, "data.id": data.id, "data.split.column": data.split.column}
    for key, name in named.items():
        if name is not None and name not in columns:
            hint = None
            if len(columns) == 1 and any(c in columns[0] for c in ";\t|"):
                hint = "Values must be separated by commas; the header has none."
            raise DataError(
                f"{data.path} has no column '{name}' ({key}){nearest(name, columns)}",
                hint=hint or f"Its columns: {_listed(columns)}.",
                places=(Place(data.path, 1),),
            )
    for name in data.drop:
        if name not in columns:
            raise UsageError(
                f"data.drop: {data.path} has no column '{name}'{nearest(name, columns)}",
                hint=f"Its columns: {_listed(columns)}.",
            )
    if data.target == data.id or data.target in data.drop:
        raise UsageError(f"data.target '{data.target}' cannot be the id or a dropped column, too.")
    features = [c for c in columns if c not in (data.target, data.id) and c not in data.drop]
    if not features:
        raise UsageError(f"{data.path} has no column left to learn from.")
    return features


def _task(data: Data, target: pd.Series, file: Path) -> tuple[str, list[Label] | None]:
    """Check the target against the task, guessed when the pipeline leaves it open."""
    gaps = np.flatnonzero(target.isna())
    if gaps.size:
        raise DataError(
            f"{_row(data, file, gaps)}: the target '{data.target}' is missing here "
            f"({gaps.size} times in all); it must be known in each row.",
            hint="Remove these rows, or fill them in.",
            places=(_place(data, file, gaps),),
        )
    values = target.drop_duplicates().tolist()
    text = not pd.api.types.is_numeric_dtype(target.dtype)
    if pd.api.types.is_datetime64_any_dtype(target.dtype):
        raise DataError(
            f"The target '{data.target}' is a date; Trilho predicts classes or numbers."
        )
    if len(values) == 1:
        raise DataError(
            f"The target '{data.target}' is {values[0]!r} in every row; there is nothing to learn."
        )
    if text and data.task != "regression" and len(values) > max(MOST_CLASSES, len(target) // 2):
        raise DataError(
            f"The target '{data.target}' is text with {len(values)} distinct values in "
            f"{len(target)} rows; expected a few classes, or numbers.",
            hint="Is data.target the right column?",
        )
    task = data.task or _guess(target, values)
    if task == "regression":
        if text or target.dtype.kind == "b":
            raise DataError(
                f"The target '{data.target}' holds {values[0]!r}; a regression needs numbers.",
                hint="Set data.task to binary or multiclass, or leave it out.",
            )
        return task, None
    if task == "binary" and len(values) != 2:
        raise DataError(
            f"The target '{data.target}' has {len(values)} distinct values; task 'binary' needs 2.",
            hint="Set data.task to multiclass or regression, or leave it out.",
        )
    return task, sorted(values)


def _guess(target: pd.Series, values: list[Any]) -> str:
    if len(values) == 2:
        return "binary"
    if target.dtype.kind == "f" or (target.dtype.kind in "iu" and len(values) > MOST_CLASSES):
        return "regression"
    return "multiclass"


def _positive(data: Data, task: str, classes: list[Label] | None) -> Label | None:
    if task != "binary" or classes is None:
        if data.positive is not None:
            raise UsageError(f"data.positive has no meaning for task '{task}'; remove it.")
        return None
    if data.positive is None:
        return classes[-1]
    for found in classes:
        if found == data.positive or str(found) == str(data.positive):
            return found
    shown = " and ".join(repr(c) for c in classes)
    raise UsageError(
        f"data.positive is {data.positive!r}, but the target '{data.target}' holds {shown}."
    )


def _place(data: Data, file: Path, rows: np.ndarray[Any, Any]) -> Place:
    if source.suffix(data.path) == ".parquet":
        return Place(data.path)
    return Place(data.path, source.csv_lines(file, [int(rows[0])], data.encoding)[0])


def _row(data: Data, file: Path, rows: np.ndarray[Any, Any]) -> str:
    place = _place(data, file, rows)
    return str(place) if place.line else f"{place}, row {rows[0] + 1}"


def _listed(names: Sequence[str], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
