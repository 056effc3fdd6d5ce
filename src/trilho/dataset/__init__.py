"""The dataset: found, read, named row by row, split and summarised.

`source` knows files and lines, `table` makes a frame of a file, `roles` gives its columns their
parts (target, id, features), `split` freezes the hold-out, `summary` describes columns.
Names are imported on first use, so that `digest` costs no pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trilho.dataset.records import ColumnSummary, Top
from trilho.dataset.source import csv_lines, digest, local

if TYPE_CHECKING:
    from trilho.dataset.roles import Dataset, read
    from trilho.dataset.split import holdout
    from trilho.dataset.summary import column_kinds, summarise

__all__ = [
    "ColumnSummary",
    "Dataset",
    "Top",
    "column_kinds",
    "csv_lines",
    "digest",
    "holdout",
    "local",
    "read",
    "summarise",
]

_HOME = {
    "Dataset": "roles",
    "column_kinds": "summary",
    "holdout": "split",
    "read": "roles",
    "summarise": "summary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
