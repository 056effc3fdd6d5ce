"""`python -m benchmarks [NAME ...]`: measure, and write RESULTS.md when all are measured."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib import import_module

from benchmarks.measure import ROOT, machine

ALL = ("job", "bootstrap", "validation", "startup", "serving")

names = sys.argv[1:] or ALL
sections = []
for name in names:
    section = import_module(f"benchmarks.{name}").main()
    print(section, flush=True)
    sections.append(section)
if tuple(names) == ALL:
    head = (
        "# Results\n\n"
        f"Measured on {datetime.now(UTC):%Y-%m-%d} on {machine()}, by `make benchmark`. Each claim "
        "stands beside its peer, measured in turn in the same run; figures are medians. Ratios "
        "travel between machines, seconds do not.\n\n"
    )
    (ROOT / "benchmarks/RESULTS.md").write_text(head + "\n".join(sections), encoding="utf-8")
