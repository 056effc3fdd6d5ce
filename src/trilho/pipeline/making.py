"""Validate the dataset, train the model, leave the run's record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trilho import bundle, registry, tracking
from trilho.errors import IntegrityError, TrilhoError, UnavailableError, UsageError
from trilho.pipeline.job import Done, Job, Tell, digest_of, replace, silent
from trilho.registry import Foregone, RunRecord, Source
from trilho.training import fingerprint

if TYPE_CHECKING:
    from trilho.schema import Validation


def foregone(job: Job) -> Foregone | None:
    """Return the outcome of inputs that need no work, and leave it to the report.

    None where there is work to do, or where it was asked for.
    """
    known = None if job.force else registry.foregone(job.registry, job.fingerprint)
    if known is None:
        (job.folder / "foregone.json").unlink(missing_ok=True)
    else:
        job.write("foregone.json", known, job.fingerprint)
    return known


def validate(job: Job, tell: Tell = silent) -> Done[Validation]:
    """Check the dataset against its schema and the dataset-level checks."""
    from trilho.schema.records import Validation

    name = "validation.json"
    settings = job.config.data
    stamp = digest_of(
        job.dataset_digest,
        fingerprint.schema(Path(settings.schema_)),
        settings.model_dump_json(exclude={"path"}),
        fingerprint.code("schema", "dataset"),
        # freshness is judged against today
        f"{datetime.now(UTC):%Y-%m-%d}" if settings.checks.freshness else "",
    )
    if job.unchanged(name, stamp):
        return Done(job.read(name, Validation), same=True)
    from trilho import schema

    tell(f"reading {settings.path}")
    data = job.dataset
    tell(f"checking {len(data.frame):,} rows against {settings.schema_}")
    result = schema.validate(data, settings)
    job.write(name, result, stamp)
    return Done(result)


def train(job: Job, tell: Tell = silent) -> Done[RunRecord]:
    """Give the bundle that these inputs make: the one that the run folder or the registry holds,
    else a new one.
    """
    (job.folder / "foregone.json").unlink(missing_ok=True)  # from here on there is more to tell
    if not job.force and (record := _known(job, tell)):
        return Done(record, same=True)
    from trilho import gates, schema, training

    started, clock = datetime.now(UTC), time.perf_counter()
    tell(f"reading {job.config.data.path}")
    data = job.dataset
    if data.digest != job.dataset_digest:
        raise UnavailableError(
            f"{data.path} was replaced while it was read.", hint="Run the command again."
        )
    gates.check(job.config.gates, data.task)  # a mistyped metric is told before the work, not after
    held = job.holdout
    path = job.config.data.schema_
    sensitive = schema.sensitive(schema.load(path), path)
    with job.new_bundle() as partial, job.ahead(job.later, gently=True):
        trained = training.train(
            job.config,
            data,
            held,
            partial,
            fingerprint=job.fingerprint,
            lock=fingerprint.lock_digest(),
            sensitive=sensitive,
            tell=tell,
        )
        record = RunRecord(
            id=f"{started:%Y%m%dT%H%M%S}-{os.urandom(3).hex()}",
            name=job.config.name,
            fingerprint=job.fingerprint,
            digest=trained.digest,
            started_at=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - clock, 3),
            source=Source.current(),
            dataset={"path": data.path, "digest": data.digest, "rows": len(data.frame)},
            parameters=trained.manifest.parameters,
            metrics=trained.manifest.metrics,
            measurements=msgspec.to_builtins(trained.measurements),
            environment=trained.manifest.environment,
            search=trained.search,
            status="trained",
        )
    job.scores[trained.digest] = trained.scores
    _keep(job, record)
    return Done(record)


def fetch(job: Job, tell: Tell = silent) -> None:
    """Bring the bundle that is stored for these inputs into an empty run folder; never train.

    Raises
    ------
    UsageError
        None is stored.
    QuarantinedError
        The one that is stored is in quarantine.
    """
    if (job.bundle / bundle.MANIFEST).exists():
        return
    if candidate := job.registry.candidate(job.fingerprint):
        job.registry.refuse_quarantined(candidate.digest)
    if _known(job, tell) is None:
        raise UsageError(
            f"{job.bundle} holds no bundle, and none is stored for these inputs in "
            f"{job.config.registry} (fingerprint {job.fingerprint}).",
            hint="Run `trilho train` first. In a workflow, let the job that trains store its "
            "bundle by `trilho publish --candidate`, and give both jobs the same overrides.",
        )


def _known(job: Job, tell: Tell) -> RunRecord | None:
    """The record of a bundle that was made of the same inputs, once it lies in the run folder."""
    own: RunRecord | None = None
    if job.unchanged("run.json", job.fingerprint):
        try:
            own = job.read("run.json", RunRecord)
            bundle.verify(job.bundle, own.digest)
        except IntegrityError:
            tell("the bundle in the run folder is damaged")
            own = None
    # what is stored for these inputs comes first: it is what a reviewer saw
    candidate = job.registry.candidate(job.fingerprint)
    if candidate is None or job.registry.quarantined(candidate.digest):
        return own
    if own is not None and own.digest == candidate.digest:
        return own
    record = job.registry.run(candidate.run) if candidate.run else None
    if record is None:
        return own
    tell(f"fetching {candidate.digest} from {job.config.registry}")
    job.folder.mkdir(parents=True, exist_ok=True)
    job.registry.fetch_bundle(candidate.digest, job.bundle)
    _keep(job, record)
    return record


def _keep(job: Job, record: RunRecord) -> None:
    replace(job.folder / "inputs.json", msgspec.json.encode(job.inputs, order="sorted"))
    job.write("run.json", record, job.fingerprint)


def record_run(job: Job, record: RunRecord) -> list[str]:
    """Leave the run's record in the registry, and in MLflow when asked; return what failed."""
    failures = []
    wanted: list[Callable[[], object]] = [lambda: job.registry.put_run(record)]
    if tracking.wanted():
        wanted.append(lambda: tracking.log_run(record, job.bundle))
    for log in wanted:
        try:
            log()
        except TrilhoError as error:
            failures.append(f"{error.message} {error.hint or ''}".strip())
    return failures
