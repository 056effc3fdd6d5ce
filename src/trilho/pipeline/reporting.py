"""Write the reports of what the run folder holds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trilho import bundle
from trilho.config import DEFAULT_PATH
from trilho.errors import UsageError
from trilho.evaluation.results import Comparison, Measurements
from trilho.pipeline.job import Done, Job, Tell, content, digest_of, replace, silent
from trilho.pipeline.judging import compared
from trilho.registry import Foregone, RunRecord, Source
from trilho.training import fingerprint

if TYPE_CHECKING:
    from trilho.report import ReportInputs

T = TypeVar("T")


def report(job: Job, tell: Tell = silent) -> Done[tuple[Path, Path]]:
    """Write report.md, report.html and numbers.json of what the run folder holds."""
    figures = job.folder / "numbers.json"
    markdown, html = job.folder / "report.md", job.folder / "report.html"
    documents = ("validation.json", "run.json", "comparison.json", "measurements.json")
    stamp = digest_of(
        *(content(job.folder / name) for name in (*documents, "verdict.json")),
        repr(_foregone(job)),
        fingerprint.code("report"),
        *job.overrides.options(),
    )
    if job.unchanged("report.md", stamp) and html.exists() and figures.exists():
        return Done((markdown, html), same=True)
    from trilho import report as reports
    from trilho.report.numbers import numbers

    inputs = _inputs(job)
    tell("writing report.md")
    text = reports.markdown(inputs)
    tell("drawing report.html")
    replace(html, reports.html(inputs).encode())
    replace(figures, bundle.canonical(numbers(inputs)))
    job.write("report.md", text, stamp)
    return Done((markdown, html))


def _foregone(job: Job) -> Foregone | None:
    """The outcome of these inputs, if the last verb over them was a `retrain` that found one."""
    name = "foregone.json"
    there = (job.folder / name).exists() and job.stamped(name, job.fingerprint)
    return job.read(name, Foregone) if there else None


def _inputs(job: Job) -> ReportInputs:
    from trilho.gates import Verdict
    from trilho.report import ReportInputs
    from trilho.schema.records import Validation

    def maybe(name: str, kind: type[T]) -> T | None:
        return job.read(name, kind) if (job.folder / name).exists() else None

    validation = maybe("validation.json", Validation)
    run = maybe("run.json", RunRecord)
    invalid = validation is not None and not validation.ok
    known = _foregone(job)
    if known is not None and not invalid:
        return ReportInputs(name=job.config.name, foregone=known, run_url=Source.current().run_url)
    if validation is None and run is None:
        raise UsageError(
            f"{job.folder} holds nothing to report.", hint="Run `trilho retrain`, or train first."
        )
    if run is None or invalid:
        return ReportInputs(
            name=job.config.name, validation=validation, reproduce="trilho validate"
        )
    manifest, digest = bundle.read_manifest(job.bundle)
    verdict = maybe("verdict.json", Verdict)
    comparison = maybe("comparison.json", Comparison)
    if comparison and not job.stamped(
        "comparison.json", compared(manifest, digest, comparison.champion_digest)
    ):
        comparison = None  # of another bundle
    measured = (comparison and maybe("measurements.json", Measurements)) or job.measured()
    return ReportInputs(
        name=job.config.name,
        manifest=manifest,
        digest=digest,
        evaluation=job.evaluation(),
        comparison=comparison,
        verdict=verdict if verdict and verdict.candidate == digest else None,
        validation=validation,
        measurements=measured,
        run=run,
        reproduce=_reproduce(job, run),
        run_url=run.source.run_url,
    )


def _reproduce(job: Job, run: RunRecord) -> str:
    """The command that gives the same bundle again."""
    words = ["trilho", "retrain", "--force"]
    if job.config_path != DEFAULT_PATH:
        words += ["--config", str(job.config_path)]
    command = shlex.join(words + job.overrides.options())
    if run.source.commit is None:
        return command
    return f"git checkout {shlex.quote(run.source.commit)} && {command}"
