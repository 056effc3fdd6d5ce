"""Every command in the README works as it stands there, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from trilho.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)


def test_the_two_commands_are_targets_that_make_the_environment() -> None:
    """What they do is tested where it is cheap to see: the demo in tests/cloud/test_demo.py."""
    commands = [line.split("#")[0].strip() for line in BLOCKS[0].splitlines()]
    assert commands == ["make demo", "make test"]
    for command, does in zip(commands, ("trilho demo", "pytest"), strict=True):
        plan = subprocess.run(
            [*command.split(), "--dry-run", "--always-make"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "scripts/setup" in plan
        assert does in plan


def test_making_it_yours_runs_line_by_line(tmp_path: Path) -> None:
    frame = pd.read_csv(ROOT / "data/credit_default.csv", nrows=4000)
    frame = frame.rename(columns={"default_next_month": "y"})
    frame.to_csv(tmp_path / "mydata.csv", index=False)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in BLOCKS[1].splitlines():
        done = subprocess.run(
            ["bash", "-e", "-c", line],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / ".trilho/run/report.html").exists()


def test_the_table_of_verbs_is_the_command_line() -> None:
    listed = re.findall(r"^\| `trilho ([a-z]+)` \|", README, re.M)
    assert sorted(listed) == sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))],
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http", "#")):
            assert (path.parent / target.partition("#")[0]).exists(), target
