"""All that a report can tell; whatever is missing is left out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trilho.bundle import Manifest
from trilho.evaluation.results import Comparison, Evaluation, Measurements

if TYPE_CHECKING:
    from trilho.gates import Verdict
    from trilho.registry import Foregone, RunRecord
    from trilho.schema import Validation


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """The documents of one run.

    Parameters
    ----------
    name
        The pipeline's name.
    manifest, digest
        The candidate's bundle; None when no model was trained.
    evaluation
        The candidate on the hold-out.
    comparison
        The candidate beside the champion; None without a champion.
    verdict
        What the gates said; None before `trilho gate`.
    validation
        What the schema said of the dataset.
    measurements
        Time and size, as measured in this run.
    run
        The run's record: who, when, from which commit, with which parameters.
    champion_version
        Number of the champion's version, where it is not in `comparison`.
    foregone
        The outcome of inputs that need no work; all the rest is then left out.
    reproduce
        The command that gives the same bundle again.
    run_url
        The page of the workflow run.
    """

    name: str
    manifest: Manifest | None = None
    digest: str | None = None
    evaluation: Evaluation | None = None
    comparison: Comparison | None = None
    verdict: Verdict | None = None
    validation: Validation | None = None
    measurements: Measurements | None = None
    run: RunRecord | None = None
    champion_version: int | None = None
    foregone: Foregone | None = None
    reproduce: str | None = None
    run_url: str | None = None

    @property
    def invalid(self) -> bool:
        """Whether the data broke its schema, so that there is no model to judge."""
        return self.validation is not None and not self.validation.ok

    @property
    def champion(self) -> str | None:
        """The champion in words, `champion v3`; None when there is none."""
        compared = self.comparison.champion_version if self.comparison else None
        version = compared if compared is not None else self.champion_version
        if version is not None:
            return f"champion v{version}"
        return "champion" if self.comparison else None
