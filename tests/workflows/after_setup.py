#!/usr/bin/env python3
"""What the job `actions` of ci.yml asks, once `setup` ran twice and `setup-cml` once.

By then `python3` is that of the environment; an exception is the answer no.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

first, second, cml = (json.loads(os.environ[name]) for name in ("FIRST", "SECOND", "CML"))
checkout = Path(os.environ["GITHUB_WORKSPACE"])


def check(what: str, found: object, expected: object) -> None:
    """Print one answer; leave with the first that is wrong."""
    print(f"{what}: {found}")
    if found != expected:
        sys.exit(f"::error::{what}: {found!r} instead of {expected!r}")


environment = Path(first["environment"])
lock = hashlib.sha256((checkout / "requirements.txt").read_bytes()).hexdigest()
check("lock", first["lock-digest"], lock)
check("the second environment", second["environment"], first["environment"])
check("the second lock", second["lock-digest"], lock)
check(
    "cache hits are true or false",
    {first["cache-hit"], cml["cache-hit"]} <= {"true", "false"},
    True,
)
check("Python", Path(sys.prefix), environment)
check("trilho on PATH", shutil.which("trilho"), str(environment / "bin" / "trilho"))

wanted = (checkout / "tests/workflows/requirements.txt").read_text().split("==")[1].split()[0]
check("the caller's requirement", importlib.metadata.version("humanize"), wanted)
source = subprocess.check_output(
    [sys.executable, "-c", "import credit_default as c; print(c.__file__)"], text=True
)
check("the caller's source", Path(source.strip()).parents[1], checkout / "src")
check("cml on PATH", shutil.which("cml"), cml["path"])
print(subprocess.check_output([cml["path"], "--version"], text=True))
