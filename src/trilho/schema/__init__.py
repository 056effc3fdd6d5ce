"""The schema: what the dataset must look like, checked in full, reported by row and line.

`load` reads a pandera schema, `coerce` changes dtypes only where no value changes, `validate` finds
and counts all failures, `checks` judges the dataset as a whole, `infer` drafts a schema.
"""

from __future__ import annotations

from trilho.schema.infer import infer
from trilho.schema.load import load
from trilho.schema.records import Example, Failure, Validation
from trilho.schema.validate import validate

__all__ = ["Example", "Failure", "Validation", "infer", "load", "validate"]
