"""The comment on a fork's pull request: figures in sentences of our own.

The verdict stands among the figures, in no colour: nobody has verified that either.
"""

from __future__ import annotations

from trilho.evaluation.results import METRICS
from trilho.report.markdown import alert, code, sentence, table
from trilho.report.numbers import Figure, Numbers
from trilho.report.text import NOTHING, decimals, figure, interval, metric_name, whole

KNOWN = {metric for metrics in METRICS.values() for metric in metrics}
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
        ("Verdict of the fork's run", given.verdict),
        ("Candidate", code(given.digest) if given.digest else "none"),
        ("Rows", whole(given.rows) if given.rows is not None else NOTHING),
        ("Commit", code(sha)),
        ("Computed by", f"[the fork's run]({run_url})"),
    ]
    parts = [
        f"## {sentence(title or 'Model report of a fork')}",
        alert("bad", "NOT VERIFIED", UNVERIFIED),
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
