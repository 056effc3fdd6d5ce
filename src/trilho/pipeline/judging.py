"""Compare candidate and champion, and hold the candidate against the gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trilho.bundle import Manifest
from trilho.errors import TrilhoError, UsageError
from trilho.evaluation.results import Comparison, Difference, Evaluation, Measurements
from trilho.pipeline.job import CACHE, Done, Job, Tell, digest_of, silent
from trilho.pipeline.making import validate
from trilho.registry import Alias

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from trilho.gates import Verdict
    from trilho.training import Scorer


MODULES = (
    "trilho.schema.validation",
    "trilho.compiled.gtil",
    "trilho.training.run",
    "trilho.evaluation.single",
    "trilho.evaluation.paired",
    "trilho.report.charts",
    "sklearn.ensemble",  # what most factories make a model of
)


def all_steps(job: Job) -> None:
    """Let what the last steps need be done beside the first ones, because all will follow."""
    if job.champion is not None:
        job.later = (score_champion,)
    job.modules = MODULES


def evaluate(job: Job, tell: Tell = silent) -> Done[Comparison | None]:
    """Score candidate and champion on the same hold-out rows; None without a champion."""
    name = "comparison.json"
    champion = job.champion
    stamp = compared(job.manifest, job.digest, champion.digest if champion else "")
    if champion is None:
        for old in (name, "measurements.json"):
            (job.folder / old).unlink(missing_ok=True)
        return Done(None)
    if job.unchanged(name, stamp) and job.unchanged("measurements.json", stamp):
        return Done(job.read(name, Comparison), same=True)
    if champion.digest == job.digest:
        comparison, measured = _itself(job.evaluation(), champion), job.measured()
    else:
        comparison, measured = _beside(job, champion, tell)
    job.write("measurements.json", measured, stamp)
    job.write(name, comparison, stamp)
    return Done(comparison)


def compared(manifest: Manifest, digest: str, champion: str) -> str:
    """Return the stamp of a comparison."""
    return digest_of(manifest.fingerprint, digest, champion)


def _beside(job: Job, champion: Alias, tell: Tell) -> tuple[Comparison, Measurements]:
    from trilho.evaluation import compare, data_change
    from trilho.training import Reference, Scorer
    from trilho.training.columns import from_frame
    from trilho.training.run import coded, measure

    tell(f"fetching champion v{champion.version}")
    folder, old = _fetch(job, champion)
    tell(f"reading {job.config.data.path}")
    data = job.dataset
    held = job.holdout
    frame = data.frame[held]
    candidate = Scorer(job.bundle)
    signature = candidate.signature
    tell(f"scoring candidate and champion v{champion.version} on {len(frame):,} rows")
    scores = _scores(job, candidate, frame)
    reference = [
        msgspec.json.decode((place / "reference.json").read_bytes(), type=Reference)
        for place in (folder, job.bundle)
    ]
    change = data_change(*reference)
    try:
        other = Scorer(folder)
        if (task := other.signature.task) != signature.task:
            raise UsageError(f"The champion is a {task} model, the candidate is not.")
        if other.signature.classes != signature.classes:
            raise UsageError("The champion knows other classes than the candidate.")
        other_scores = _scores(job, other, frame)
        other_few = from_frame(frame.iloc[:1], other.signature)
    except (TrilhoError, KeyError, ValueError, ImportError, AttributeError) as error:
        missing = f"the column {error} is missing" if isinstance(error, KeyError) else error
        reason = f"Champion v{champion.version} cannot be scored on these rows: {missing}"
        impossible = Comparison(
            champion_digest=champion.digest,
            champion_version=champion.version,
            data=change,
            impossible=reason,
        )
        return impossible, job.measured()
    tell(f"comparing by {job.config.evaluation.resamples:,} paired resamples")
    comparison = compare(
        job.config.evaluation,
        task=signature.task,
        y=coded(data.y()[held], signature),
        scores=scores,
        champion_scores=other_scores,
        frame=frame,
        ids=data.ids[held],
        threshold=signature.threshold,
        champion_threshold=other.signature.threshold,
        data=change,
        champion_digest=champion.digest,
        champion_version=champion.version,
        caveats=_caveats(job.manifest, old),
    )
    few = from_frame(frame.iloc[:1000], signature)
    return comparison, measure(candidate.form, job.bundle, few, (other.form, other_few))


def score_champion(job: Job) -> None:
    """Fetch the champion and score the hold-out by it, ahead of the comparison."""
    from trilho.training import Scorer

    if job.champion is None:
        return
    folder, manifest = _fetch(job, job.champion)
    # only what is data can be run beside a fit: an archive imports the project, as the fit does
    if manifest.serving == "compiled":
        job.scores[job.champion.digest] = Scorer(folder)(job.dataset.frame[job.holdout])


def _fetch(job: Job, champion: Alias) -> tuple[Path, Manifest]:
    folder = CACHE / "bundles" / champion.digest.removeprefix("sha256:")
    return folder, job.registry.fetch_bundle(champion.digest, folder)


def _scores(job: Job, scorer: Scorer, frame: pd.DataFrame) -> NDArray[np.float64]:
    known = job.scores.get(scorer.digest)
    return scorer(frame) if known is None else known


def _caveats(new: Manifest, old: Manifest) -> list[str]:
    """Why the comparison is not quite fair."""
    if new.split == old.split:
        return []
    return [
        "The hold-out is another one than the champion's: the champion was trained on some of "
        "these rows, and looks better than it is."
    ]


def _itself(evaluation: Evaluation, champion: Alias) -> Comparison:
    """The comparison of a bundle with itself, which needs no row."""
    return Comparison(
        champion_digest=champion.digest,
        champion_version=champion.version,
        rows=evaluation.rows,
        confidence=evaluation.confidence,
        resamples=evaluation.resamples,
        metrics={
            name: Difference(
                candidate=found.value, champion=found.value, difference=0.0, low=0.0, high=0.0
            )
            for name, found in evaluation.metrics.items()
            if found.value is not None
        },
        caveats=["The candidate is the champion itself."],
    )


def gate(job: Job, tell: Tell = silent) -> Done[Verdict]:
    """Hold the candidate against every gate; what the gates need is brought up to date first."""
    from trilho import gates

    manifest, digest = job.manifest, job.digest
    validation = validate(job, tell).value
    comparison = evaluate(job, tell).value
    verdict = gates.judge(
        job.evaluation(),
        comparison,
        job.read("measurements.json", Measurements) if comparison else job.measured(),
        job.config.gates,
        candidate=digest,
        serving=manifest.serving,
        serving_reason=manifest.serving_reason,
        failures=sum(f.count for f in validation.failures),
    )
    job.write("verdict.json", verdict, digest_of(digest))
    return Done(verdict)
