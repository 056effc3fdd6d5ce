"""Store a judged bundle in the registry, as a candidate or as the next version."""

from __future__ import annotations

import msgspec

from trilho.errors import HeldError, RejectedError
from trilho.pipeline.job import Job
from trilho.pipeline.judging import gate
from trilho.registry import Candidate, Source, Version, now


def store_candidate(job: Job, reason: str | None) -> Candidate:
    """Store the bundle and its verdict in the registry, under its fingerprint.

    The verdict is given anew, so that it is one on this bundle beside today's champion, by the
    gates and the data as they are now; what did not change since `evaluate` is not computed again.
    """
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


def publish(job: Job, *, allow_hold: bool = False, reason: str | None = None) -> Version:
    """Make this run's bundle the next version, if the verdict against today's champion allows.

    Raises
    ------
    RejectedError, HeldError
        The verdict says no.
    """
    candidate = store_candidate(job, reason)
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
