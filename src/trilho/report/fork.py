"""The comment on a fork's pull request: figures in sentences of our own."""

from __future__ import annotations

from trilho.evaluation.results import METRICS
from trilho.report.markdown import alert, code, sentence, table
from trilho.report.numbers import Figure, Numbers
from trilho.report.text import NOTHING, decimals, figure, interval, metric_name, whole

KNOWN = {metric for metrics in METRICS.values() for metric in metrics}
TONES = {"PROMOTE": "good", "UNCHANGED": "good", "HOLD": "unsure"}
SAYS = {
    "PROMOTE": "By these figures every gate passes.",
    "HOLD": "By these figures the gates cannot decide.",
    "REJECT": "By these figures a gate fails.",
    "UNCHANGED": "By these figures nothing that decides a model changed.",
    "DATA REJECTED": "By these figures the data break their schema; no model was trained.",
    "NO VERDICT": "The run ended before its verdict.",
}
UNVERIFIED = (
    "These figures were computed by the fork's own code and are not verified. Before you rely on "
    "them, read the change, then run it from a branch of this repository."
)


def fork_report(given: Numbers, *, title: str | None, sha: str, run_url: str) -> str:
    """Return the comment as Markdown.

    Parameters
    ----------
    given
        From the fork; of it only figures, the verdict and the digest are shown.
    title
        Of this repository, not of the fork.
    sha, run_url
        The commit and the page of the run, as GitHub says.
    """
    facts: list[tuple[str, ...]] = [
        ("Candidate", code(given.digest) if given.digest else "none"),
        ("Rows", whole(given.rows) if given.rows is not None else NOTHING),
        ("Commit", code(sha)),
        ("Computed by", f"[the fork's run]({run_url})"),
    ]
    parts = [
        f"## {sentence(title or 'Model report')}",
        alert("bad", "NOT VERIFIED", UNVERIFIED),
        alert(TONES.get(given.verdict, "bad"), given.verdict, SAYS[given.verdict]),
        table(("", ""), "ll", facts),
    ]
    known = {name: found for name, found in given.metrics.items() if name in KNOWN}
    if known:
        parts.append(_metrics(known))
    if left := len(given.metrics) - len(known):
        parts.append(f"_{left} more under names that are not known here._")
    return "\n\n".join(parts) + "\n"


def _metrics(known: dict[str, Figure]) -> str:
    compared = any(found.champion is not None for found in known.values())
    head: tuple[str, ...] = ("Metric", "Candidate", "Interval")
    if compared:
        head = ("Metric", "Candidate", "Champion", "Difference", "Interval")
    rows = []
    for name, found in known.items():
        places = decimals(found.candidate, found.champion)
        value = figure(found.candidate, places)
        row: tuple[str, ...] = (metric_name(name), value)
        if compared:
            row += (
                figure(found.champion, places),
                figure(found.difference, places, signed=True),
            )
        rows.append((*row, interval(found.low, found.high, places, signed=compared)))
    return table(head, "l" + "r" * (len(head) - 1), rows)
