"""What the gates say, as records: stored as JSON, read by the report."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Status = Literal["pass", "fail", "unsure", "warn", "skip"]
Word = Literal["PROMOTE", "HOLD", "REJECT"]


class GateResult(Struct, frozen=True, kw_only=True):
    """What one gate found of one subject."""

    gate: str  # data limits champion slices fairness calibration leakage latency size serving
    subject: str  # a metric, a slice such as `roc_auc of SEX=2`, a column
    status: Status  # warn and skip never change the verdict
    value: float | None = None  # what was measured; a difference where a champion is compared with
    bound: float | None = None  # what it is held against
    low: float | None = None  # the interval of `value`
    high: float | None = None
    message: str  # one sentence
    rows_needed: int | None = None  # hold-out rows that would settle an unsure gate


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether the candidate may replace the champion."""

    verdict: Word
    candidate: str  # digest
    champion: str | None = None  # digest
    results: list[GateResult]
    summary: str  # one plain sentence for a reviewer
