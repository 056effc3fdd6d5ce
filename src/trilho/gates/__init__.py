"""The verdict on a candidate: one status for each gate, one word for all of them.

A bound that the model as a whole must hold is held only when the whole interval is inside of it,
and broken only when the whole interval is outside; else more rows must decide. Groups of rows are
searched for harm instead: there are many and they are small, so only what is certain among all of
them counts. docs/gates.md says why.
"""

from trilho.gates.judge import MARGIN, check, default_limits, judge
from trilho.gates.verdict import GateResult, Status, Verdict, Word

__all__ = [
    "MARGIN",
    "GateResult",
    "Status",
    "Verdict",
    "Word",
    "check",
    "default_limits",
    "judge",
]
