"""What a validation found, as plain records."""

from __future__ import annotations

from msgspec import Struct

from trilho.dataset.summary import ColumnSummary

EXAMPLES = 5  # rows shown per failed check


class Example(Struct, frozen=True, kw_only=True):
    """One row that fails a check."""

    row: str  # its id
    line: int | None  # of a CSV, counted from 1
    value: str


class Failure(Struct, frozen=True, kw_only=True):
    """One check that failed, with its first rows; a check of the whole dataset has no rows."""

    column: str | None
    check: str
    count: int  # rows that fail; 1 for a check of the column or dataset as a whole
    message: str
    file: str  # the dataset as configured: with `line`, the place of an annotation
    line: int | None = None  # of the first example
    examples: list[Example] = []


class Validation(Struct, frozen=True, kw_only=True):
    """A dataset held against its schema and checks."""

    path: str
    digest: str
    schema: str
    rows: int
    columns: list[ColumnSummary]
    failures: list[Failure]

    @property
    def ok(self) -> bool:
        return not self.failures
