"""Store a judged bundle in the registry, as a candidate or as the next version."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trilho import github
from trilho.errors import HeldError, RejectedError, UsageError
from trilho.pipeline.job import Job, Tell, silent
from trilho.pipeline.judging import gate
from trilho.pipeline.making import fetch
from trilho.registry import Candidate, Source, Version, now


def check_lasting(job: Job) -> None:
    """Refuse a registry that would end with the runner.

    Raises
    ------
    UsageError
        This runs on GitHub Actions, and the registry is a folder of the checkout.
    """
    url = job.config.registry
    if (
        github.in_actions()
        and not url.startswith("s3://")
        and not Path(url).expanduser().is_absolute()
    ):
        raise UsageError(
            f"The registry is the folder {url} of this runner, and ends with it.",
            hint="Set the variable TRILHO_REGISTRY (Settings → Secrets and variables → Actions → "
            "Variables): gh variable set TRILHO_REGISTRY --body s3://bucket/prefix",
        )


def store_candidate(
    job: Job, reason: str | None, *, expect: str | None = None, tell: Tell = silent
) -> Candidate:
    """Store the bundle and its verdict in the registry, under its fingerprint.

    Where the run folder is empty, as in a new job of a workflow, it is the bundle that is stored
    for these inputs already; nothing is trained. The verdict is given anew, so that it is one on
    this bundle beside today's champion, by the gates and the data as they are now; what did not
    change since `evaluate` is not computed again.

    Raises
    ------
    UsageError
        There is no bundle of these inputs, or no registry that lasts.
    RejectedError
        It is another bundle than the one with the digest `expect`.
    """
    check_lasting(job)
    fetch(job, tell)
    if expect is not None and job.digest != expect:
        raise RejectedError(
            f"{expect} was approved, but these inputs make {job.digest}.",
            hint="Something that decides the model changed in between. Start the whole workflow "
            "anew, so that this one is looked at.",
        )
    tell("judging it beside today's champion")
    verdict = gate(job).value
    record = job.record()
    job.registry.put_run(record)  # before the pointer that names it
    comparison = job.folder / "comparison.json"
    candidate = Candidate(
        fingerprint=job.fingerprint,
        digest=job.registry.put_bundle(job.bundle),
        verdict=verdict.verdict,
        champion=verdict.champion,
        created_at=now(),
        source=Source.current(reason),
        run=record.id,
        verdict_document=msgspec.to_builtins(verdict),
        comparison=msgspec.json.decode(comparison.read_bytes()) if comparison.exists() else None,
    )
    job.registry.put_candidate(candidate)
    return candidate


def publish(job: Job, candidate: Candidate, *, allow_hold: bool = False) -> Version:
    """Make a candidate the next version, if its verdict allows; published before, it stays that.

    Raises
    ------
    RejectedError, HeldError
        The verdict says no.
    """
    if candidate.verdict == "REJECT":
        raise RejectedError("The gates rejected this bundle; it is not published.")
    if candidate.verdict == "HOLD" and not allow_hold:
        raise HeldError(
            "The gates hold this bundle; it is not published.",
            hint="Add rows to the hold-out, or publish with --allow-hold.",
        )
    return job.registry.publish(
        candidate.digest, verdict=candidate.verdict, source=candidate.source
    )
