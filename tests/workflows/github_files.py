"""The workflows and actions of this repository as data, for the tests that only read them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
WORKFLOWS = tuple(sorted((ROOT / ".github" / "workflows").glob("*.y*ml")))
ACTIONS = tuple(sorted((ROOT / ".github" / "actions").glob("*/action.y*ml")))
# Version, commit and interface of every third-party action, looked up by a person. An update by
# Dependabot is red until somebody has looked whether that commit is that version's.
THIRD_PARTY: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("third_party.json").read_text(encoding="utf-8")
)
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


@functools.cache
def load(path: Path) -> dict[str, Any]:
    """Read a YAML file; `on` stays a text, as in YAML 1.2."""
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    """The file as a test's name shows it."""
    return str(path.relative_to(ROOT / ".github"))


@dataclass(frozen=True)
class Call:
    """A place that uses an action or a reusable workflow."""

    where: str
    uses: str
    given: dict[str, Any]
    secrets: Any
    callee: Path | None  # when it stands in this repository


def jobs(path: Path) -> dict[str, Any]:
    return load(path).get("jobs", {})


def steps(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step of a workflow or an action, with the place that it stands in."""
    for job, content in jobs(path).items():
        for number, step in enumerate(content.get("steps", []), start=1):
            yield f"{name(path)}: job {job}: step {number}", step
    for number, step in enumerate(load(path).get("runs", {}).get("steps", []), start=1):
        yield f"{name(path)}: step {number}", step


def calls(path: Path) -> Iterator[Call]:
    for job, content in jobs(path).items():
        if "uses" in content:
            yield _call(f"{name(path)}: job {job}", content)
    for where, step in steps(path):
        if "uses" in step:
            yield _call(where, step)


def _call(where: str, content: dict[str, Any]) -> Call:
    uses = content["uses"]
    callee = None
    if uses.startswith("$/"):
        callee = ROOT / uses.removeprefix("$/")
        callee = callee if callee.suffix else callee / "action.yml"
    return Call(where, uses, content.get("with") or {}, content.get("secrets"), callee)


def expressions(content: Any) -> Iterator[str]:
    """Every expression in a part of a document; an `if` needs no `${{ }}` to be one."""
    if isinstance(content, dict):
        for key, value in content.items():
            bare = key == "if" and isinstance(value, str) and "${{" not in value
            yield from [value] if bare else expressions(value)
    elif isinstance(content, list):
        for value in content:
            yield from expressions(value)
    elif isinstance(content, str):
        yield from EXPRESSION.findall(content)
