"""What a step tells the runner: outputs, environment, annotations. Only the standard library."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

USAGE = 2  # exit codes of the verbs, too
UNAVAILABLE = 7

NETWORK = re.compile(
    r"error sending request|failed to download|failed to fetch|request failed|dns error"
    r"|connection refused|timed out|operation was canceled",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    message: str
    path: Path | None = None
    line: int | None = None


class SetupError(Exception):
    """The environment cannot be made; every problem becomes an annotation."""

    def __init__(self, problems: Iterable[Problem], exit_code: int = USAGE) -> None:
        self.problems = list(problems)
        self.exit_code = exit_code
        super().__init__("\n".join(problem.message for problem in self.problems))


def failed(message: str, output: str) -> SetupError:
    """Return the error for a program that failed, with what it said and the fitting exit code."""
    unavailable = NETWORK.search(output) and "Hash mismatch" not in output
    return SetupError([Problem(f"{message}\n{output}")], UNAVAILABLE if unavailable else 1)


def annotation(problem: Problem, title: str = "setup") -> str:
    """Return the workflow command that shows a problem, with no way out of it for its text."""
    properties = [f"title={_property(title)}"]
    if problem.path is not None:
        workspace = os.environ.get("GITHUB_WORKSPACE", ".")
        properties.append(f"file={_property(os.path.relpath(problem.path, workspace))}")
        if problem.line is not None:
            properties.append(f"line={problem.line}")
    return f"::error {','.join(properties)}::{_data(problem.message)}"


def write_output(name: str, value: str) -> None:
    """Set an output of the step."""
    _append("GITHUB_OUTPUT", name, value)


def export(name: str, value: str) -> None:
    """Set an environment variable for this job's later steps."""
    _append("GITHUB_ENV", name, value)


def put_on_path(folder: Path) -> None:
    """Put a folder in front of PATH for this job's later steps."""
    with open(required("GITHUB_PATH"), "a", encoding="utf-8") as file:
        file.write(f"{folder}\n")


def required(name: str) -> str:
    """Return a variable that every runner sets."""
    if value := os.environ.get(name):
        return value
    raise SetupError([Problem(f"{name} is not set: this runs as a step of a GitHub Actions job.")])


def say(text: str) -> None:
    """Show progress in the log."""
    print(text, file=sys.stderr, flush=True)


def _append(variable: str, name: str, value: str) -> None:
    # A delimiter that nobody can foresee: no value ends its own block and starts another.
    delimiter = f"end_{secrets.token_hex(16)}"
    with open(required(variable), "a", encoding="utf-8") as file:
        file.write(f"{name}<<{delimiter}\n{value}\n{delimiter}\n")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
