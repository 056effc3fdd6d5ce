"""What the doctor found, for the job summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trilho.report.markdown import alert, fenced, sentence, table
from trilho.report.text import counted

SIGNS = {"pass": "✅ pass", "skip": "⚪ skip", "warn": "⚠️ warn", "fail": "❌ fail"}
HEADS = {
    "fail": ("bad", "FAIL"),
    "warn": ("unsure", "WARN"),
    "pass": ("good", "PASS"),
}


class Found(Protocol):
    """One line of the table."""

    @property
    def status(self) -> str: ...
    @property
    def area(self) -> str: ...
    @property
    def check(self) -> str: ...
    @property
    def found(self) -> str: ...
    @property
    def mend(self) -> str | None: ...


def doctor(findings: Sequence[Found]) -> str:
    """Return verdict, remedies and table, what is worst on top."""
    counts = {status: sum(f.status == status for f in findings) for status in SIGNS}
    tone, word = HEADS[next((s for s in ("fail", "warn") if counts[s]), "pass")]
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    parts = ["## Doctor", alert(tone, word, f"{counted(len(findings), 'check')}: {told}")]
    for status in ("fail", "warn", "skip"):
        for finding in findings:
            if finding.status == status and finding.mend:
                head = f"**{SIGNS[status]} — {finding.area}, {sentence(finding.check)}**"
                parts.append(f"{head}: {sentence(finding.found)}\n\n{fenced(finding.mend)}")
    rows: list[tuple[str, ...]] = [
        (SIGNS[f.status], f.area, sentence(f.check), sentence(f.found)) for f in findings
    ]
    parts.append(table(("", "Area", "Check", "Found"), "llll", rows))
    return "\n\n".join(parts) + "\n"
