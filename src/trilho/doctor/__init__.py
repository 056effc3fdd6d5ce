"""The doctor: what a deployment would stumble over, found before it does, each with its remedy.

A check is a plain function of a `Context` that returns what it found; `examination` lists them all
and makes them one after the other, so that one that fails or cannot be made never hides another.
"""

from trilho.doctor.context import Context
from trilho.doctor.examination import CHECKS, Check, examine, policy
from trilho.doctor.findings import Finding, Status, Unknown, worst

__all__ = [
    "CHECKS",
    "Check",
    "Context",
    "Finding",
    "Status",
    "Unknown",
    "examine",
    "policy",
    "worst",
]
