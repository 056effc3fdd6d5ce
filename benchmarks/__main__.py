"""`python -m benchmarks [NAME ...]`: measure all, or some, and write that into RESULTS.md."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from importlib import import_module

from benchmarks.measure import ROOT, machine

ALL = ("job", "bootstrap", "validation", "startup", "serving")
RESULTS = ROOT / "benchmarks/RESULTS.md"


def main() -> None:
    names = sys.argv[1:] or ALL
    sections = []
    for name in names:
        section = import_module(f"benchmarks.{name}").main()
        print(section, flush=True)
        sections.append(section)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    if tuple(names) == ALL:
        text = (
            f"# Results\n\nMeasured on {today} on {machine()}, by `make benchmark`. Each claim "
            "stands beside its peer, measured in turn in the same run; figures are medians. Ratios "
            "travel between machines, seconds do not.\n\n" + "\n".join(sections)
        )
    else:
        text = RESULTS.read_text(encoding="utf-8")
        for section in sections:
            text = replaced(text, section.replace("`\n", f"`, on {today} on {machine()}\n", 1))
    RESULTS.write_text(text, encoding="utf-8")


def replaced(text: str, section: str) -> str:
    """Put a section of RESULTS.md in the place of the one with its title, or at the end."""
    title = section.partition("\n")[0]
    old = re.search(rf"^{re.escape(title)}$.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if old is None:
        return f"{text.rstrip()}\n\n{section}"
    rest = text[old.end() :]
    return text[: old.start()] + section.rstrip() + ("\n\n" + rest if rest else "\n")


if __name__ == "__main__":
    main()
