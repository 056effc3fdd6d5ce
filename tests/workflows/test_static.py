"""What can be seen without running anything: pins, permissions, injections, what linters say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from github_files import ACTIONS, ROOT, THIRD_PARTY, WORKFLOWS, calls, jobs, load, name, steps

ALL = (*WORKFLOWS, *ACTIONS)
LINT = ROOT / "scripts" / "lint-workflows"
KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

each_file = pytest.mark.parametrize("path", ALL, ids=name)
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=name)
each_action = pytest.mark.parametrize("path", ACTIONS, ids=name)


def lint(check: str) -> None:
    done = subprocess.run([LINT, check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_something_to_check() -> None:
    assert len(WORKFLOWS) >= 9
    assert len(ACTIONS) >= 8


# The linters


def test_zizmor_as_an_auditor_finds_nothing() -> None:
    lint("security")


def test_every_file_fits_its_schema() -> None:
    lint("schema")


def test_shellcheck_finds_nothing() -> None:
    lint("shell")


def test_no_secret_is_in_the_repository() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "scan-secrets"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@each_file
def test_what_a_linter_is_told_to_ignore_has_a_reason(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if match := re.search(r"# zizmor: ignore\[[a-z, -]+\](.*)", line):
            above = lines[number - 1].strip() if number else ""
            reason = match[1].strip() or (above.removeprefix("#") if above.startswith("#") else "")
            assert len(reason.split()) >= 4, f"{name(path)}:{number + 1}: ignored without a reason"


# Pins


@each_file
def test_every_third_party_action_is_pinned_as_the_table_says(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.match(r"\s*(?:- )?uses:\s*(?P<uses>\S+)(?P<comment>.*)$", line)
        if match is None or match["uses"].startswith("$/"):
            continue
        action, _, commit = match["uses"].partition("@")
        where = f"{name(path)}:{number}: {match['uses']}"
        assert action in THIRD_PARTY, f"{where} is not in third_party.json"
        known = THIRD_PARTY[action]
        assert commit == known["commit"], where
        assert match["comment"].strip() == f"# {known['version']}", where


def test_cml_is_pinned_as_the_table_says() -> None:
    action = load(ROOT / ".github/actions/setup-cml/action.yml")
    assert action["inputs"]["commit"]["default"] == THIRD_PARTY["iterative/cml"]["commit"]


@each_file
def test_own_actions_are_named_by_their_repository_and_commit(path: Path) -> None:
    for call in calls(path):
        assert not call.uses.startswith("./"), f"{call.where}: the caller's checkout, not ours"
        assert call.callee is None or call.callee.is_file(), f"{call.where}: no {call.uses}"


def test_uv_is_the_same_everywhere() -> None:
    [locked] = re.findall(r"^uv==(\S+)", (ROOT / "requirements-uv.txt").read_text(), re.MULTILINE)
    found = [c for p in ALL for c in calls(p) if c.uses.startswith("astral-sh/setup-uv@")]
    assert found
    assert {call.where: call.given.get("version") for call in found} == {
        call.where: locked for call in found
    }


# Permissions, time, injections


@each_workflow
def test_nothing_is_permitted_but_what_a_job_asks_for_with_a_reason(path: Path) -> None:
    assert load(path)["permissions"] == {}
    asked = 0
    for job, content in jobs(path).items():
        assert isinstance(content.get("permissions"), dict), f"{name(path)}: job {job}"
        asked += len(content["permissions"])
    line = r"^ {6}[a-z-]+: (?:read|write|none)\b(.*)$"
    comments = re.findall(line, path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(comments) == asked
    assert all(re.match(r" # \S+", comment) for comment in comments), f"{name(path)}: no reason"


@each_workflow
def test_every_job_ends_in_time(path: Path) -> None:
    for job, content in jobs(path).items():
        assert "uses" in content or "timeout-minutes" in content, f"{name(path)}: job {job}"


@each_workflow
def test_every_workflow_that_starts_by_itself_says_what_runs_beside_it(path: Path) -> None:
    if set(load(path)["on"]) != {"workflow_call"}:
        assert {"group", "cancel-in-progress"} <= set(load(path)["concurrency"])


@each_file
def test_no_expression_stands_in_a_script(path: Path) -> None:
    for where, step in steps(path):
        assert "${{" not in step.get("run", ""), f"{where}: {step['run']}"
        script = step.get("with", {}).get("script", "")
        assert "${{" not in script, f"{where}: {script}"


@each_file
def test_scripts_are_files(path: Path) -> None:
    for where, step in steps(path):
        assert len(step.get("run", "").strip().splitlines()) <= 3, f"{where} holds a script"


@each_file
def test_a_checkout_leaves_no_token_behind(path: Path) -> None:
    for call in calls(path):
        if call.uses.startswith("actions/checkout@"):
            assert call.given.get("persist-credentials") is False, call.where


@each_workflow
def test_secrets_reach_steps_only(path: Path) -> None:
    """A secret in the environment of a job is in the hands of everything that the job runs."""
    for job, content in {"workflow": load(path), **jobs(path)}.items():
        for variable, value in (content.get("env") or {}).items():
            secret = re.search(r"secrets\.|github\.token|outputs\.aws-", str(value))
            assert not secret, f"{name(path)}: {job}: {variable}"


# Form


@each_file
def test_every_workflow_job_and_step_has_a_name(path: Path) -> None:
    assert load(path)["name"]
    for job, content in jobs(path).items():
        assert content.get("name"), f"{name(path)}: job {job}"
    for where, step in steps(path):
        assert step.get("name"), where


@each_file
def test_inputs_and_outputs_are_kebab_case_and_described(path: Path) -> None:
    for kind, declared in interfaces(load(path)):
        for key, content in declared.items():
            assert KEBAB.fullmatch(key), f"{name(path)}: {kind}: {key} is not kebab-case"
            assert (content or {}).get("description", "").strip(), f"{name(path)}: {kind}: {key}"


@each_action
def test_every_input_of_an_action_has_a_default(path: Path) -> None:
    for key, content in (load(path).get("inputs") or {}).items():
        assert isinstance(content.get("default"), str), f"{name(path)}: {key}"


@each_action
def test_an_action_only_hands_its_inputs_to_one_program(path: Path) -> None:
    """YAML holds no logic: each script is one call."""
    for where, step in steps(path):
        if "run" in step:
            assert step["shell"] == "bash", where
            assert len(step["run"].strip().splitlines()) == 1, where
            assert not re.search(r"[;|&]", step["run"].replace(">=", "")), where


def interfaces(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What a file takes and gives."""
    found = [(kind, document.get(kind) or {}) for kind in ("inputs", "outputs")]
    triggers = document.get("on", {})
    for event in ("workflow_call", "workflow_dispatch"):
        content = (triggers.get(event) or {}) if isinstance(triggers, dict) else {}
        found += [(kind, content.get(kind) or {}) for kind in ("inputs", "outputs")]
    return found


# What stands around them


def test_dependabot_watches_every_folder_that_pins_something() -> None:
    updates = load(ROOT / ".github/dependabot.yml")["updates"]
    watched = {
        update["package-ecosystem"]: set(update.get("directories") or [update["directory"]])
        for update in updates
    }
    assert watched["github-actions"] == {"/", "/.github/actions/*"}
    assert watched["docker"] == folders("Dockerfile")
    assert watched["pip"] == folders("requirements*.txt")
    assert watched["npm"] == folders("package-lock.json")


def folders(pattern: str) -> set[str]:
    """The folders of the repository that hold such a file."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"**/{pattern}"]
    files = subprocess.check_output([*listed, pattern], cwd=ROOT, text=True).split()
    return {"/" + str(Path(file).parent).strip(".") for file in files}


def test_the_npm_lock_has_integrity_and_names_no_registry() -> None:
    lock = load(ROOT / "scripts/language-service/package-lock.json")
    packages = {key: value for key, value in lock["packages"].items() if key}
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not [key for key, package in packages.items() if "resolved" in package]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_no_script_has_lost_its_permission_to_run() -> None:
    listed = subprocess.check_output(["git", "ls-files", "-s"], cwd=ROOT, text=True).splitlines()
    for line in listed:
        mode, *_, path = line.split(maxsplit=3)
        file = ROOT / path
        if file.is_file() and file.read_bytes()[:2] == b"#!":
            assert mode == "100755", f"{path} starts with #! and cannot be run"
