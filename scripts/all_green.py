#!/usr/bin/env python3
"""Fail unless every other job of a workflow is needed by this one, and succeeded.

    NEEDS='${{ toJSON(needs) }}' scripts/all_green.py .github/workflows/ci.yml all-green

A branch rule asks for this one job. A job that somebody adds and forgets to list in `needs` would
be red beside a green check; so it is an error here. A job that was skipped or cancelled did not
succeed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path


def main(workflow: str, own: str) -> int:
    """Print one line for each job; return the exit code."""
    needs = json.loads(os.environ["NEEDS"])
    results = {job: content["result"] for job, content in needs.items()}
    others = jobs(Path(workflow).read_text(encoding="utf-8")) - {own}
    problems = [f"{job}: not in the needs of {own}" for job in sorted(others - set(results))]
    for job, result in sorted(results.items()):
        print(f"{job}: {result}")
        if result != "success":
            problems.append(f"{job}: {result}")
    for problem in problems:
        print(f"::error title={own}::{problem}")
    if not others:
        print(f"::error title={own}::{workflow} has no other job")
    return 1 if problems or not others else 0


def jobs(text: str) -> set[str]:
    """Return the names of a workflow's jobs, without a YAML library: runners have none."""
    section = text.partition("\njobs:\n")[2]
    section = re.split(r"^[^\s#]", section, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^  ([\w-]+):", section, re.MULTILINE))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
