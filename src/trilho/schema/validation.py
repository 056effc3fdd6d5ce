"""A dataset held against its schema and checks, as a report with rows and lines."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from trilho.config import Data
from trilho.dataset import Dataset, csv_lines, summarise
from trilho.schema.checks import dataset_findings
from trilho.schema.findings import Finding, schema_findings
from trilho.schema.loading import load
from trilho.schema.records import Example, Failure, Validation


def validate(dataset: Dataset, data: Data, now: datetime | None = None) -> Validation:
    """Hold a dataset against its schema and the checks of the pipeline.

    Nothing is changed: a schema's `coerce` only says that a column may be *read* as another dtype,
    and a value that this would change is a failure.

    Parameters
    ----------
    dataset
        As `dataset.read` returns it.
    data
        The pipeline's data section: its schema and checks.
    now
        The moment that freshness is measured from; the present when left out.

    Raises
    ------
    UsageError
        The schema cannot be used, or the checks name unknown columns.
    """
    schema = load(data.schema_)
    columns = summarise(dataset.frame)
    found = list(schema_findings(schema, dataset.frame))
    known = {(f.column, f.check) for f in found}
    for finding in dataset_findings(dataset, data, columns, now):
        if (finding.column, finding.check) not in known:
            found.append(finding)
    return Validation(
        path=dataset.path,
        digest=dataset.digest,
        schema=data.schema_,
        rows=len(dataset.frame),
        columns=columns,
        failures=_report(found, dataset),
    )


def _report(found: list[Finding], dataset: Dataset) -> list[Failure]:
    """Name the rows of the findings, and look up their lines in one pass over the file."""
    rows = sorted({int(row) for finding in found for row in finding.rows})
    lines: dict[int, int] = {}
    if rows and not dataset.path.endswith(".parquet"):
        lines = dict(zip(rows, csv_lines(dataset.file, rows, dataset.encoding), strict=True))
    failures = []
    for finding in found:
        examples = [
            Example(row=str(dataset.ids[row]), line=lines.get(row), value=_value(finding, row))
            for row in map(int, finding.rows)
        ]
        failures.append(
            Failure(
                column=finding.column,
                check=finding.check,
                count=finding.count,
                message=finding.message,
                file=dataset.path,
                line=examples[0].line if examples else None,
                examples=examples,
            )
        )
    return failures


def _value(finding: Finding, row: int, most: int = 80) -> str:
    if finding.values is None:
        return ""
    value = finding.values.iloc[row]
    text = "(missing)" if pd.isna(value) else str(value)
    return text if len(text) <= most else text[: most - 1] + "…"
