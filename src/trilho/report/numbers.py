"""Verdict, digest and figures of a run, and nothing that somebody could write a sentence into.

`trilho report` leaves them as numbers.json. In a fork's run the fork's own code wrote that file, so
it is read as what a stranger sent: bounded, and strictly by type.
"""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from trilho.errors import DataError
from trilho.report.inputs import ReportInputs

LARGEST_FILE = 64 * 1024
Word = Literal["PROMOTE", "HOLD", "REJECT", "UNCHANGED", "DATA REJECTED", "NO VERDICT"]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Metric = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,40}\Z")]
Count = Annotated[int, Meta(ge=0, le=10**12)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]  # neither infinite nor, in JSON, no number


class Figure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric on the hold-out; `low` to `high` is the interval of the difference, or, without a
    champion, of the candidate.
    """

    candidate: Number | None = None
    champion: Number | None = None
    difference: Number | None = None
    low: Number | None = None
    high: Number | None = None


class Numbers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    verdict: Word
    digest: Digest | None = None
    rows: Count | None = None
    holdout_rows: Count | None = None
    champion_version: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    metrics: Annotated[dict[Metric, Figure], Meta(max_length=64)] = {}


def numbers(inputs: ReportInputs) -> Numbers:
    """Return the figures of a report."""
    if (known := inputs.foregone) is not None:
        unchanged = known.verdict == "UNCHANGED"
        return Numbers(
            name=inputs.name,
            verdict=known.verdict,
            digest=known.champion_digest if unchanged else known.digest,
            champion_version=known.champion_version,
        )
    manifest, verdict = inputs.manifest, inputs.verdict
    word: Word = "NO VERDICT"
    if inputs.invalid:
        word = "DATA REJECTED"
    elif verdict is not None:
        word = verdict.verdict
    compared = inputs.comparison
    figures: dict[str, Figure] = {}
    if compared is not None and compared.metrics:
        figures = {
            metric: Figure(
                candidate=_finite(found.candidate),
                champion=_finite(found.champion),
                difference=_finite(found.difference),
                low=_finite(found.low),
                high=_finite(found.high),
            )
            for metric, found in compared.metrics.items()
        }
    elif inputs.evaluation is not None:
        figures = {
            metric: Figure(
                candidate=_finite(found.value), low=_finite(found.low), high=_finite(found.high)
            )
            for metric, found in inputs.evaluation.metrics.items()
        }
    rows = inputs.validation.rows if inputs.validation is not None else None
    return Numbers(
        name=inputs.name,
        verdict=word,
        digest=inputs.digest,
        rows=manifest.dataset.rows if manifest is not None else rows,
        holdout_rows=manifest.dataset.holdout_rows if manifest is not None else None,
        champion_version=compared.champion_version if figures and compared else None,
        metrics=figures,
    )


def read_numbers(path: Path) -> Numbers:
    """Read a file that anybody may have written.

    Raises
    ------
    DataError
        It is not a plain file of at most 64 KiB in the form that `trilho report` writes. The
        message quotes nothing of it.
    """
    data = b""
    try:
        if stat.S_ISREG(path.lstat().st_mode):  # no link to follow, no pipe to wait for
            with open(path, "rb") as file:
                data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > LARGEST_FILE:
        raise DataError(f"{path} is larger than {LARGEST_FILE // 1024} KiB; figures are not.")
    try:
        return msgspec.json.decode(data, type=Numbers)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise DataError(
            f"{path} does not hold verdict and figures as `trilho report` writes them.",
            hint="Nothing was posted. Look at the run that made it, with suspicion.",
        ) from None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
