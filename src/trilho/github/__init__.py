"""GitHub, as a step sees it: what the runner reads, and the REST API.

What the runner reads (annotations, outputs, the summary) is here by name; it needs no network and
costs nothing to import. What talks to GitHub stands in modules of its own: `api`, `comment`,
`fork`, `issue`.
"""

from trilho.github.commands import (
    SUMMARY_LIMIT,
    add_summary,
    annotate,
    annotation,
    cut,
    in_actions,
    set_output,
)

__all__ = [
    "SUMMARY_LIMIT",
    "add_summary",
    "annotate",
    "annotation",
    "cut",
    "in_actions",
    "set_output",
]
