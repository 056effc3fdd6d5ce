"""Who calls whom with what: GitHub finds most of these mistakes when the line runs, or never."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from github_files import (
    ACTIONS,
    ROOT,
    THIRD_PARTY,
    WORKFLOWS,
    Call,
    calls,
    expressions,
    jobs,
    load,
    name,
    steps,
)
from ruamel.yaml import YAML

from trilho.cli import app

each_file = pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=name)
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=name)
each_action = pytest.mark.parametrize("path", ACTIONS, ids=name)

WHOLE = re.compile(r"\s*\$\{\{(?P<inside>.*)\}\}\s*", re.DOTALL)
LEVELS = {"none": 0, "read": 1, "write": 2}


# What is given


def declared_inputs(call: Call) -> dict[str, dict[str, Any]]:
    """The inputs of what a call calls."""
    if call.callee is None:
        known = THIRD_PARTY[call.uses.split("@")[0]]
        return {key: {"required": key in known["required"]} for key in known["inputs"]}
    document = load(call.callee)
    if "runs" in document:
        return document.get("inputs") or {}
    return (document["on"]["workflow_call"] or {}).get("inputs") or {}


@each_file
def test_every_call_gives_only_inputs_that_exist_and_all_that_are_required(path: Path) -> None:
    for call in calls(path):
        declared = declared_inputs(call)
        unknown = set(call.given) - set(declared)
        assert not unknown, f"{call.where}: {call.uses} has no input {sorted(unknown)}"
        required = {key for key, content in declared.items() if needs_a_value(content)}
        missing = required - set(call.given)
        assert not missing, f"{call.where}: {call.uses} requires {sorted(missing)}"


@each_file
def test_every_call_gives_values_of_the_right_type(path: Path) -> None:
    types = caller_types(path)
    for call in calls(path):
        if call.callee is None:
            continue
        for key, content in declared_inputs(call).items():
            if key in call.given:
                expected = type_of(content)
                given = type_of_value(call.given[key], types)
                where = f"{call.where}: {call.uses}: {key} is {expected}, given {call.given[key]!r}"
                assert given in accepted(expected, composite="type" not in content), where


@each_file
def test_every_secret_that_is_handed_on_exists(path: Path) -> None:
    for call in calls(path):
        if call.callee is not None and isinstance(call.secrets, dict):
            declared = (load(call.callee)["on"]["workflow_call"] or {}).get("secrets") or {}
            assert set(call.secrets) <= set(declared), call.where


@each_workflow
def test_a_called_workflow_asks_for_no_more_than_its_caller_has(path: Path) -> None:
    for job, content in jobs(path).items():
        uses = content.get("uses", "")
        if uses.startswith("$/"):
            callee = ROOT / uses.removeprefix("$/")
            for called, inner in jobs(callee).items():
                for permission, level in inner["permissions"].items():
                    has = content["permissions"].get(permission, "none")
                    assert LEVELS[level] <= LEVELS[has], (
                        f"{name(path)}: job {job} has {permission}: {has}, "
                        f"but job {called} of {name(callee)} asks for {level}"
                    )


def needs_a_value(content: dict[str, Any]) -> bool:
    return bool(content.get("required")) and "default" not in content


def type_of(content: dict[str, Any]) -> str:
    """An input's type; that of an action's input is known from its default."""
    kind = content.get("type")
    if kind is None:
        return "boolean" if content.get("default") in ("true", "false") else "string"
    return "string" if kind in ("choice", "environment") else kind


def caller_types(path: Path) -> dict[str, str]:
    """The types that `inputs.NAME` has in a file."""
    document = load(path)
    declared = dict(document.get("inputs") or {})
    for event in ("workflow_call", "workflow_dispatch"):
        declared |= ((document.get("on") or {}).get(event) or {}).get("inputs") or {}
    return {key: type_of(content) for key, content in declared.items()}


def type_of_value(value: Any, types: dict[str, str]) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    whole = WHOLE.fullmatch(value)
    if whole is None:
        return "boolean" if value in ("true", "false") else "string"
    inside = whole["inside"].strip()
    if match := re.fullmatch(r"inputs\.([\w-]+)", inside):
        return types[match[1]]
    if re.search(r"[=!]=|^!", inside) and "||" not in re.sub(r"\([^()]*\)", "", inside):
        return "boolean"
    return "unknown"


def accepted(expected: str, *, composite: bool) -> set[str]:
    """What an input takes. All inputs of an action are texts, so it takes numbers, too."""
    also = {"number"} if composite and expected == "string" else set()
    return {expected, "unknown", *also}


# What is taken


@each_workflow
def test_every_reference_in_a_workflow_leads_somewhere(path: Path) -> None:
    for job, content in jobs(path).items():
        check_steps(path, f"{name(path)}: job {job}", content)
        for needed, output in found(r"needs\.([\w-]+)\.outputs\.([\w-]+)", content):
            needs = content.get("needs", [])
            assert needed in ([needs] if isinstance(needs, str) else needs), f"{job}: {needed}"
            assert output in job_outputs(path, needed), f"{job}: needs.{needed}.outputs.{output}"
    call = (load(path)["on"].get("workflow_call") or {}) if "on" in load(path) else {}
    for job, output in found(r"jobs\.([\w-]+)\.outputs\.([\w-]+)", call.get("outputs")):
        assert output in job_outputs(path, job), f"{name(path)}: jobs.{job}.outputs.{output}"


@each_action
def test_every_reference_in_an_action_leads_somewhere(path: Path) -> None:
    runs = load(path)["runs"]
    check_steps(path, name(path), {**runs, "outputs": load(path).get("outputs")})


@each_file
def test_every_input_is_declared_and_used(path: Path) -> None:
    used = {found_name for (found_name,) in found(r"\binputs\.([\w-]+)", load(path))}
    declared = set(caller_types(path))
    assert used == declared, f"{name(path)}: declared {declared - used}, used {used - declared}"


@each_workflow
def test_every_variable_of_the_environment_is_set_before_it_is_read(path: Path) -> None:
    for job, content in jobs(path).items():
        for number, step in enumerate(content.get("steps", [])):
            known = {**(load(path).get("env") or {}), **(content.get("env") or {})}
            known |= step.get("env") or {}
            for (variable,) in found(r"\benv\.(\w+)", step):
                assert variable in known, f"{name(path)}: job {job}: step {number + 1}: {variable}"


@each_workflow
def test_a_called_workflow_declares_the_secrets_that_it_reads(path: Path) -> None:
    if "workflow_call" in load(path)["on"]:
        declared = set((load(path)["on"]["workflow_call"] or {}).get("secrets") or {})
        read = {secret for (secret,) in found(r"\bsecrets\.(\w+)", jobs(path))}
        assert read == declared


def check_steps(path: Path, where: str, content: dict[str, Any]) -> None:
    """Check each `steps.ID…`: the step exists, stands before, and gives that output."""
    ids = [step.get("id") for step in content.get("steps", [])]
    given = [i for i in ids if i]
    assert len(given) == len(set(given)), f"{where}: two steps share an id"
    for number, step in enumerate(content.get("steps", [])):
        for identifier, *_ in found(r"\bsteps\.([\w-]+)\.", step):
            assert identifier in ids[:number], f"{where}: step {number + 1}: steps.{identifier}"
    outside = {key: value for key, value in content.items() if key != "steps"}
    for identifier, *_ in found(r"\bsteps\.([\w-]+)\.", outside):
        assert identifier in ids, f"{where}: steps.{identifier}"
    for identifier, output in found(r"\bsteps\.([\w-]+)\.outputs\.([\w-]+)", content):
        known = step_outputs(content["steps"][ids.index(identifier)], path)
        assert known is None or output in known, f"{where}: steps.{identifier}.outputs.{output}"


def step_outputs(step: dict[str, Any], path: Path) -> set[str] | None:
    """The outputs of a step; None where only running it can tell."""
    for call in calls(path):
        if call.uses == step.get("uses"):
            if call.callee is None:
                return set(THIRD_PARTY[call.uses.split("@")[0]]["outputs"])
            return set(load(call.callee).get("outputs") or {})
    return None


def job_outputs(path: Path, job: str) -> set[str]:
    content = jobs(path)[job]
    if content.get("uses", "").startswith("$/"):
        callee = load(ROOT / content["uses"].removeprefix("$/"))
        return set(callee["on"]["workflow_call"].get("outputs") or {})
    return set(content.get("outputs") or {})


def found(pattern: str, content: Any) -> Iterator[tuple[str, ...]]:
    """The groups of a pattern in every expression of a part of a document."""
    for expression in expressions(content):
        without_texts = re.sub(r"'[^']*'", "''", expression)
        for match in re.finditer(pattern, without_texts):
            yield match.groups()


# Workflows among each other


def test_a_workflow_that_waits_for_another_names_one_that_exists() -> None:
    names = {load(path)["name"] for path in WORKFLOWS}
    for path in WORKFLOWS:
        for waited in (load(path)["on"].get("workflow_run") or {}).get("workflows", []):
            assert waited in names, name(path)


def test_the_ruleset_requires_checks_that_exist() -> None:
    rules = json.loads((ROOT / ".github/rulesets/main.json").read_text())["rules"]
    [required] = [r["parameters"] for r in rules if r["type"] == "required_status_checks"]
    contexts = {check["context"] for check in required["required_status_checks"]}
    assert contexts == {"all-green", "model / model"}
    assert contexts <= set(checks_of_pull_requests())


def checks_of_pull_requests() -> Iterator[str]:
    """The names under which the jobs show up at a pull request."""
    for path in WORKFLOWS:
        if "pull_request" in load(path)["on"]:
            for content in jobs(path).values():
                if content.get("uses", "").startswith("$/"):
                    called = jobs(ROOT / content["uses"].removeprefix("$/"))
                    yield from (f"{content['name']} / {c['name']}" for c in called.values())
                else:
                    yield content["name"]


# Actions and verbs


@each_action
def test_an_action_calls_a_verb_that_exists_with_variables_that_it_reads(path: Path) -> None:
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    source = "\n".join(p.read_text() for p in (ROOT / "src/trilho").rglob("*.py"))
    known = set(re.findall(r"\b(?:TRILHO|GITHUB)_[A-Z_]+\b", source))
    for where, step in steps(path):
        if match := re.match(r"trilho (\S+)$", step.get("run", "").strip()):
            assert match[1] in verbs, f"{where}: {match[1]}"
            assert set(step["env"]) <= known, f"{where}: {sorted(set(step['env']) - known)}"


# Stand-ins


def test_a_stand_in_takes_and_gives_nothing_that_the_action_itself_does_not() -> None:
    folders = list((ROOT / "tests/workflows/actions").iterdir())
    assert folders
    for folder in folders:
        known = THIRD_PARTY[folder.name.replace("+", "/")]
        document = load(folder / "action.yml")
        assert set(document.get("inputs") or {}) <= set(known["inputs"]), folder.name
        assert set(document.get("outputs") or {}) <= set(known["outputs"]), folder.name


# Documents


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    lines = [line for line in section[1].splitlines() if line.startswith("|")] if section else []
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@each_action
def test_the_readme_says_what_action_yml_says(path: Path) -> None:
    text = path.with_name("README.md").read_text(encoding="utf-8")
    inputs = load(path).get("inputs") or {}
    assert table(text, "Inputs") == [
        [f"`{key}`", f"`{content['default']}`" if content["default"] else "", described(content)]
        for key, content in inputs.items()
    ]
    outputs = load(path).get("outputs") or {}
    assert table(text, "Outputs") == [
        [f"`{key}`", described(content)] for key, content in outputs.items()
    ]


def described(content: dict[str, Any]) -> str:
    return " ".join(content["description"].split())


@each_action
def test_the_readme_has_what_one_looks_for(path: Path) -> None:
    text = path.with_name("README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.MULTILINE)
    assert headings[0] == path.parent.name
    assert {"Inputs", "Outputs", "Permissions and secrets", "Example"} <= set(headings)


def examples() -> list[Any]:
    """The workflows and parts of workflows that documents show."""
    documents = [*(p.with_name("README.md") for p in ACTIONS), *(ROOT / "docs").glob("*.md")]
    return [
        pytest.param(block, id=f"{document.relative_to(ROOT)}:{number}")
        for document in documents
        for number, block in enumerate(
            re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE), 1
        )
        if "uses:" in block
    ]


@pytest.mark.parametrize("block", examples())
def test_an_example_can_be_copied(block: str) -> None:
    """It parses, calls what exists with inputs that exist, and pins what is not ours."""
    document = YAML(typ="safe", pure=True).load(block)
    for job in document.get("jobs", {"": document}).values():
        for content in [job, *job.get("steps", [])]:
            if "uses" not in content:
                continue
            used, _, reference = content["uses"].partition("@")
            given = set(content.get("with") or {})
            if own := re.fullmatch(r"(?:OWNER|[\w-]+)/trilho/(\.github/\S+)", used):
                callee = ROOT / own[1]
                callee = callee if callee.suffix else callee / "action.yml"
                assert reference == "v1"
                call = Call(used, used, {}, None, callee)
                assert given <= set(declared_inputs(call)), used
            else:
                known = THIRD_PARTY[used]
                assert reference == known["commit"], used
                assert f"@{reference} # {known['version']}" in block
                assert given <= set(known["inputs"]), used


def test_the_page_of_the_workflows_names_each_one_and_all_that_they_read() -> None:
    page = (ROOT / "docs/workflows.md").read_text()
    for path in WORKFLOWS:
        assert f"`{path.name}`" in page
        for kind in ("secrets", "vars"):
            for (variable,) in found(rf"\b{kind}\.(\w+)", load(path)):
                assert f"`{variable}`" in page, f"{name(path)}: {kind}.{variable}"
