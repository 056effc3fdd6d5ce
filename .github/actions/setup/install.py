"""Make the environment in which Trilho's verbs run. Only the standard library.

    install.py plan       check the inputs, say what the cache is keyed by
    install.py install    make the environment, put it on PATH

`plan` stands before the step that restores the cache, `install` after it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import caller
import runner
from environment import Uv
from runner import Problem, SetupError, say

# Each job's environment is new; without this each would compile what it imports anew, for 7 s.
IMPORT_EVERYTHING = """
import contextlib, importlib, pkgutil, trilho
for module in pkgutil.walk_packages(trilho.__path__, "trilho.", onerror=lambda name: None):
    if not module.name.endswith("__main__"):
        with contextlib.suppress(Exception):
            importlib.import_module(module.name)
"""
SOURCE = "src"  # the default; a project without such a folder needs none


@dataclass(frozen=True)
class Plan:
    """What was asked for, checked, and what follows from it."""

    python: str
    project: Path
    requirements: Path | None
    source: Path | None
    root: Path  # of Trilho: its source and its lock
    home: Path  # everything that is made stands here

    @property
    def lock(self) -> Path:
        """The hashed lock of what trains and tests a model."""
        return self.root / "requirements.txt"

    @property
    def environment(self) -> Path:
        """The virtual environment."""
        return self.home / "venv"

    @property
    def cache(self) -> Path:
        """What outlives the job: uv's cache, and modules in compiled form."""
        return self.home / "cache"

    def cache_key(self) -> str:
        """Name the content that the cache ends up with."""
        machine = f"{os.environ.get('RUNNER_OS', sys.platform)}-{os.environ.get('RUNNER_ARCH', '')}"
        digests = [_sha256(path) for path in (self.lock, self.requirements) if path]
        return "-".join(["trilho-uv", machine, f"py{self.python}", *digests])


def main(arguments: list[str]) -> int:
    """Run one of the two steps; every problem becomes an annotation."""
    try:
        [step] = arguments
        {"plan": write_plan, "install": install}[step](read_inputs())
    except SetupError as error:
        for problem in error.problems:
            print(runner.annotation(problem), flush=True)
        return error.exit_code
    return 0


def write_plan(plan: Plan) -> None:
    """Set the outputs that the cache step and the caller read."""
    runner.write_output("environment", str(plan.environment))
    runner.write_output("lock-digest", _sha256(plan.lock))
    runner.write_output("cache-path", str(plan.cache))
    runner.write_output("cache-key", plan.cache_key())


def install(plan: Plan) -> None:
    """Make the environment, or bring the one of an earlier step in line with the inputs."""
    start = time.monotonic()
    plan.home.mkdir(parents=True, exist_ok=True)
    # On the file system of the environment: files are linked, not copied.
    uv = Uv(environment=plan.environment, cache=plan.cache / "uv", project=plan.project)
    made_with = plan.home / "python-version"
    if not plan.environment.exists() or made_with.read_text() != plan.python:
        uv.make(plan.python)
        made_with.write_text(plan.python)
    uv.sync(plan.lock)
    uv.install_trilho(plan.root)
    compiled = plan.cache / "pycache"
    uv.keep_compiled(compiled)
    uv.forget_compiled(compiled, "trilho")
    if not compiled.exists():
        say("Compiling what the verbs import, for the next jobs, too ...")
        uv.run_python(IMPORT_EVERYTHING)
    if plan.requirements:
        caller.install(uv, plan.requirements, plan.lock)
    if plan.source:
        runner.export("PYTHONPATH", _appended(os.environ.get("PYTHONPATH", ""), plan.source))
    runner.put_on_path(plan.environment / "bin")
    say(f"Environment ready in {plan.environment} ({time.monotonic() - start:.1f} s)")


def read_inputs() -> Plan:
    """Read the inputs, naming everything that is wrong with them at once."""
    problems: list[Problem] = []
    workspace = Path(runner.required("GITHUB_WORKSPACE")).resolve()
    project = (workspace / os.environ.get("SETUP_WORKING_DIRECTORY", "")).resolve()
    root = _root(workspace, project)
    if not project.is_dir():
        asked = os.environ["SETUP_WORKING_DIRECTORY"]
        problems.append(Problem(f"working-directory: there is no folder {asked} in the checkout."))
    plan = Plan(
        python=_python(problems, root),
        project=project,
        requirements=_requirements(problems, project),
        source=_source(problems, project),
        root=root,
        home=(Path(runner.required("RUNNER_TEMP")) / "trilho").resolve(),
    )
    if problems:
        raise SetupError(problems)
    return plan


def _root(workspace: Path, project: Path) -> Path:
    """Return Trilho's repository: the checkout if it holds Trilho, else the one of this action."""
    action = Path(runner.required("GITHUB_ACTION_PATH")).resolve().parents[2]
    parents = [project, *(path for path in project.parents if path.is_relative_to(workspace))]
    for root in [*parents, action]:
        parts = ("src/trilho/__init__.py", "pyproject.toml", "requirements.txt")
        if all((root / part).is_file() for part in parts):
            return root
    raise SetupError([Problem(f"Trilho's source and lock are not in {action}.")])


def _python(problems: list[Problem], root: Path) -> str:
    asked = os.environ.get("SETUP_PYTHON_VERSION", "")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first, end = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    match = re.fullmatch(r"3\.(\d{1,2})(\.\d{1,2})?", asked)
    if match is None or not first <= int(match[1]) < end:
        problems.append(
            Problem(
                f"python-version is '{asked}': expected 3.{first} to 3.{end - 1}, such as '3.12'."
            )
        )
    return asked


def _requirements(problems: list[Problem], project: Path) -> Path | None:
    asked = os.environ.get("SETUP_REQUIREMENTS", "")
    path = (project / asked).resolve()
    if not asked:
        return None
    if not path.is_file():
        problems.append(Problem(f"requirements: there is no file {asked} in {project}."))
    return path


def _source(problems: list[Problem], project: Path) -> Path | None:
    asked = os.environ.get("SETUP_SOURCE", "")
    path = (project / asked).resolve()
    if asked and path.is_dir():
        if os.pathsep not in str(path) and "\n" not in str(path):
            return path
        problems.append(Problem(f"source: PYTHONPATH cannot hold the path {path}."))
    elif asked not in ("", SOURCE):
        problems.append(Problem(f"source: there is no folder {asked} in {project}."))
    return None


def _appended(paths: str, path: Path) -> str:
    kept = [entry for entry in paths.split(os.pathsep) if entry]
    return os.pathsep.join(kept if str(path) in kept else [*kept, str(path)])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
