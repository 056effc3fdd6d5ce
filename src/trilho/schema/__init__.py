"""The schema: what the dataset must look like, checked in full, reported by row and line.

`loading` reads a pandera schema, `coerce` changes dtypes only where no value changes, `findings`
finds and counts all failures, `checks` judges the dataset as a whole, `validation` makes the
report, `inference` drafts a schema. Names are imported on first use, so that the records cost no
pandera.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trilho.schema.records import Example, Failure, Validation, error_of

if TYPE_CHECKING:
    from trilho.schema.inference import infer
    from trilho.schema.loading import load, sensitive
    from trilho.schema.validation import validate

__all__ = ["Example", "Failure", "Validation", "error_of", "infer", "load", "sensitive", "validate"]


# The modules may not have the functions' names: importing one would hide its function.
_HOME = {"infer": "inference", "load": "loading", "sensitive": "loading", "validate": "validation"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
