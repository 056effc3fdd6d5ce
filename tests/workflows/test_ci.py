"""The workflows of Trilho itself: every job calls its target, and all-green misses none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from github_files import ROOT, THIRD_PARTY, WORKFLOWS, jobs
from rail import Repository, Run, Runner, copy_of_trilho
from test_release import GH
from test_setup_cml import commit_cml, git

SCRIPT = ROOT / "scripts" / "all_green.py"
CI = """\
on: push

jobs:
  one:
    runs-on: ubuntu-latest
  # a comment
  two-b:
    needs: one
    steps: [{run: "x"}]
  all-green:
    needs: [one, two-b]
"""


def ask(folder: Path, needs: dict[str, str], text: str = CI) -> tuple[int, str]:
    (folder / "ci.yml").write_text(text)
    results = json.dumps({job: {"result": result, "outputs": {}} for job, result in needs.items()})
    done = subprocess.run(
        [sys.executable, SCRIPT, folder / "ci.yml", "all-green"],
        env={**os.environ, "NEEDS": results},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


# All green


def test_it_is_green_when_every_job_succeeded(tmp_path: Path) -> None:
    assert ask(tmp_path, {"one": "success", "two-b": "success"})[0] == 0


@pytest.mark.parametrize("result", ["failure", "cancelled", "skipped"])
def test_it_is_red_when_one_did_not(tmp_path: Path, result: str) -> None:
    code, said = ask(tmp_path, {"one": "success", "two-b": result})
    assert (code, f"::error title=all-green::two-b: {result}" in said) == (1, True)


def test_it_is_red_when_a_job_is_missing_from_its_needs(tmp_path: Path) -> None:
    code, said = ask(tmp_path, {"one": "success"})
    assert code == 1
    assert "::error title=all-green::two-b: not in the needs of all-green" in said


def test_it_is_red_when_there_is_nothing_to_ask(tmp_path: Path) -> None:
    assert ask(tmp_path, {}, "jobs:\n  all-green:\n    name: x\n")[0] == 1
    assert ask(tmp_path, {}, "on: push\n")[0] == 1


def test_it_finds_the_jobs_of_every_workflow_here(tmp_path: Path) -> None:
    for path in WORKFLOWS:
        others = dict.fromkeys(set(jobs(path)) - {"all-green"}, "success")
        code, said = ask(tmp_path, others, path.read_text())
        assert code == 0, f"{path}: {said}"
        for job in others:
            fewer = {other: result for other, result in others.items() if other != job}
            assert f"{job}: not in the needs" in ask(tmp_path, fewer, path.read_text())[1]


# The workflows, run


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A copy whose `make` only remembers what it was asked for, and whose CML is a small one."""
    made = copy_of_trilho(tmp_path / "trilho", "octo/trilho")
    (made.path / "Makefile").write_text(
        "%:\n\t@echo $(strip $@ $(PYTHON_VERSION)) >> $(MADE)\n\t@test $@ != '$(BROKEN)'\n"
    )
    for file in ("requirements.txt", "after_setup.py"):
        target = made.path / "tests" / "workflows" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / "tests" / "workflows" / file).read_bytes())
        target.chmod(0o755)
    cml = tmp_path / "cml"
    cml.mkdir()
    git(cml, "init", "-q")
    commit = commit_cml(cml)
    action = made.path / ".github" / "actions" / "setup-cml" / "action.yml"
    pinned = THIRD_PARTY["iterative/cml"]["commit"]
    text = action.read_text().replace("/no/cml", str(cml)).replace(pinned, commit)
    action.write_text(text)
    made.commit("Stand-ins")
    return made


def push(runner: Runner, repository: Repository, folder: Path, broken: str = "") -> Run:
    payload = {"ref": "refs/heads/main", "after": repository.head}
    environment = {"MADE": str(folder / "made"), "BROKEN": broken}
    return runner.run(repository, "ci.yml", "push", payload, environment=environment)


def made(folder: Path) -> list[str]:
    return sorted((folder / "made").read_text().splitlines())


def test_ci_calls_every_check_and_is_green(
    runner: Runner, repository: Repository, tmp_path: Path
) -> None:
    run = push(runner, repository, tmp_path)
    names = ("lint", "test", "workflows", "security", "speed", "image", "actions", "all-green")
    run.expect(**dict.fromkeys(names, "success"))
    once = ["audit", "lint", "lint-workflows", "scan-infra", "secrets", "speed"]
    images = ["test-images"] * 2  # on two processors
    assert made(tmp_path) == [*once, "test 3.11", "test 3.13", *images]


def test_ci_is_red_as_a_whole_when_one_check_is(
    runner: Runner, repository: Repository, tmp_path: Path
) -> None:
    run = push(runner, repository, tmp_path, broken="audit")
    assert run.results["security"] == "failure"
    assert run.results["all-green"] == "failure"
    assert {error.message for error in run.errors()} >= {"security: failure"}
    assert run.results["lint"] == "success"


def test_a_tag_becomes_a_release_once_the_tests_passed(
    runner: Runner, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changelog = (repository.path / "CHANGELOG.md").read_text()
    project = tomllib.loads((repository.path / "pyproject.toml").read_text())["project"]
    version, major = project["version"], project["version"].split(".")[0]
    notes = f"## [{version}] - 2026-11-21\n\n- All of it.\n\n"
    repository.write("CHANGELOG.md", changelog.replace("## [Unreleased]\n", notes, 1))
    commit = repository.commit("Release")
    repository.git("tag", f"v{version}")
    github = tmp_path / "github"
    subprocess.run(["git", "init", "-q", "--bare", github], check=True)
    repository.git("config", f"url.{github}.insteadOf", "https://github.com/octo/trilho")
    repository.git("push", "--quiet", "origin", "main", f"v{version}")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gh").write_text(GH.format(python=sys.executable))
    (programs / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def released(broken: str) -> Run:
        payload = {"ref": f"refs/tags/v{version}", "after": commit}
        environment = {
            "MADE": str(tmp_path / "made"),
            "BROKEN": broken,
            "GH_STATE": str(tmp_path / "releases.json"),
        }
        return runner.run(repository, "release.yml", "push", payload, environment=environment)

    released("test").expect(test="failure")
    assert not (tmp_path / "releases.json").exists()
    released("").expect(test="success", release="success")
    [release] = json.loads((tmp_path / "releases.json").read_text()).values()
    assert release["notes"].startswith("- All of it.")
    assert git(github, "rev-parse", f"v{major}") == commit
