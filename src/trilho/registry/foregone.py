"""What is known of inputs before any work: their model had its turn, or it is barred."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from trilho.registry.core import Registry
from trilho.registry.records import CHAMPION, MERGED, Quarantined


class Foregone(Struct, frozen=True, kw_only=True):
    """Inputs whose outcome needs no reading of data, no training and no comparison."""

    verdict: Literal["UNCHANGED", "REJECT"]
    fingerprint: str
    digest: str  # of the bundle that these inputs make
    version: int | None = None  # its number, where it is known
    champion_version: int | None = None
    champion_digest: str | None = None
    quarantined: Quarantined | None = None  # why the bundle may not be deployed

    @property
    def reason(self) -> str:
        """Why there is nothing to do, in a sentence or two."""
        barred = ""
        if (entry := self.quarantined) is not None:
            barred = f" is quarantined since {entry.at} by {entry.source.actor}: {entry.reason}"
        if self.verdict == "REJECT":
            return f"These inputs make a bundle that{barred}"
        champion = f"v{self.champion_version} stays champion" if self.champion_version else ""
        text = f"Nothing that decides a model changed: {champion or 'there is no champion'}."
        if self.digest != self.champion_digest:
            text += f" v{self.version}, which these inputs make, had its turn"
            text += f" and{barred}" if barred else "."
        elif barred:
            text += f" It{barred}"
        return text


def foregone(registry: Registry, fingerprint: str) -> Foregone | None:
    """Return the outcome of inputs that need no work; None for all others.

    UNCHANGED: the bundle of these inputs is the champion, or the version that `merged` names, which
    had its turn on the default branch. So a merge that decides nothing deploys no older model again
    after a manual training, a rollback or a failed deployment. REJECT: the bundle is quarantined,
    and training again would give the same one.
    """
    candidate = registry.candidate(fingerprint)
    if candidate is None:
        return None
    champion, merged = registry.alias(CHAMPION), registry.alias(MERGED)
    settled = next((a for a in (champion, merged) if a and a.digest == candidate.digest), None)
    barred = registry.quarantined(candidate.digest)
    if settled is None and barred is None:
        return None
    return Foregone(
        verdict="UNCHANGED" if settled else "REJECT",
        fingerprint=fingerprint,
        digest=candidate.digest,
        version=settled.version if settled else None,
        champion_version=champion.version if champion else None,
        champion_digest=champion.digest if champion else None,
        quarantined=barred,
    )
