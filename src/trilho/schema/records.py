"""What a validation found, as plain records."""

from __future__ import annotations

from msgspec import Struct

from trilho.dataset.records import ColumnSummary
from trilho.errors import DataError, Place

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


def error_of(validation: Validation) -> DataError:
    """Return a failed validation as an error: one line per check, a place per example row."""
    lines = [f"{validation.path} does not hold its schema {validation.schema}:"]
    places: list[Place] = []
    for failure in validation.failures:
        where = str(Place(failure.file, failure.line)) if failure.line else failure.file
        rows = f" ({failure.count:,} rows)" if failure.examples else ""
        column = f"{failure.column}: " if failure.column else ""
        lines.append(f"{where}: {column}{failure.message}{rows}")
        places += [Place(failure.file, e.line) for e in failure.examples if e.line]
    return DataError(
        "\n".join(lines),
        hint=f"Repair the data, or change {validation.schema} if the data is right.",
        places=tuple(dict.fromkeys(places)) or (Place(validation.path),),
    )
