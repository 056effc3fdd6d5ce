"""A newcomer's first day: `trilho init` in a repository of their own, a pull request, a merge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import churn
import pytest
from github_files import ROOT, WORKFLOWS, load
from rail import Repository, Runner, copy_of_trilho
from ruamel.yaml import YAML
from world import World, world

from trilho import init
from trilho.errors import UsageError
from trilho.init.callers import caller

OURS = {"ci.yml", "release.yml"}  # of Trilho itself
TRILHO = "octo/trilho@v1"


def callers() -> list[Path]:
    return [p for p in WORKFLOWS if p.name not in OURS and not p.name.startswith("model-")]


def test_what_is_written_for_others_is_what_is_tested_here() -> None:
    copies = ROOT / "src/trilho/init/workflows"
    assert {p.name: p.read_bytes() for p in copies.iterdir()} == {
        p.name: p.read_bytes() for p in callers()
    }, "run `make callers`"


@pytest.mark.parametrize("path", callers(), ids=lambda p: p.name)
@pytest.mark.parametrize("own", [{}, {"requirements": "requirements.txt", "tests": "tests"}])
def test_a_caller_differs_in_whom_it_calls_and_in_what_is_there(
    path: Path, own: dict[str, str]
) -> None:
    written = YAML(typ="safe", pure=True).load(caller(path.read_text(), TRILHO, own))
    original = load(path)
    assert {k for k in written if k != "jobs"} == {k for k in original if k != "jobs"}
    for name, job in original["jobs"].items():
        there = written["jobs"][name]
        if "uses" in job:
            expected = {k: v for k, v in job.get("with", {}).items() if k != "tests"} | own
            if "model-cd" in job["uses"]:
                expected.pop("tests", None)
            assert there.get("with", {}) == expected
            assert there["uses"] == job["uses"].replace("$", "octo/trilho") + "@v1"
        for step, other in zip(job.get("steps", []), there.get("steps", []), strict=True):
            if step.get("uses", "").startswith("$/"):
                assert other["uses"] == step["uses"].replace("$", "octo/trilho") + "@v1"
                step, other = (dict(s, uses="") for s in (step, other))
            assert step == other


@pytest.mark.parametrize("wrong", ["trilho", "octo/trilho", "octo/trilho@", "o/t@v1 # x", "@v1"])
def test_whom_to_call_must_be_said(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(UsageError, match="repository and a tag or commit"):
        init.callers(wrong, tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    there = tmp_path / ".github/workflows/deploy.yml"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(UsageError, match=r"deploy\.yml is there already"):
        init.callers(TRILHO, tmp_path)


def own_repository(path: Path) -> Repository:
    """What a newcomer has after `trilho init customers.csv --target left --workflows ...`."""
    path.mkdir()
    (path / "customers.csv").write_text(churn.customers())
    (path / "tests").mkdir()
    (path / "tests/test_nothing.py").write_text("def test_nothing():\n    pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        init.init(Path("customers.csv"), "left", Path())
        init.save(init.callers(TRILHO, Path()))
    return Repository.create(path, "acme/shop")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("newcomer")
    runner.known.append(copy_of_trilho(folder / "trilho", "octo/trilho"))
    with world(folder, runner, own_repository) as made:
        yield made
    runner.known.clear()


def test_the_first_pull_request_is_reported_and_its_merge_deployed(shop: World) -> None:
    # so few customers: a smaller model is calibrated well enough to pass
    shop.change("smaller", "max_iter: 100", "max_iter: 20")
    number, run = shop.open_pull_request()
    run.expect(model="success")
    assert "1 passed" in run.log
    comment = shop.comment(number)
    run = shop.merge("smaller")
    run.expect(model="success", deploy="success")
    assert shop.champion == 1
    assert shop.serving == shop.digest(1)
    assert shop.digest(1)[7:19] in comment
