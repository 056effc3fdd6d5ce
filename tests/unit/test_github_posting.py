"""`trilho report` on a pull request: the comment, and what happens when there can be none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from workflows.github_api import ACTIONS, GitHub, github_api

from trilho.cli import app
from trilho.errors import UsageError
from trilho.github import cml
from trilho.github.api import Api
from trilho.report.numbers import read_numbers

SHA, NEWER = "ab" * 20, "cd" * 20
Report = Callable[..., Result]


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of which the data were found wanting: the quickest run that has a report."""
    folder = tmp_path_factory.mktemp("credit")
    rows = [f"{i % 37},{i % 5},{int(i % 37 > 18)}" for i in range(300)]
    (folder / "data.csv").write_text("\n".join(["amount,kind,y", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert CliRunner().invoke(app, ["init", "data.csv", "--target", "y"]).exit_code == 0
        (folder / "data.csv").write_text("\n".join(["amount,kind,y", "many,0,1", *rows]) + "\n")
        assert CliRunner().invoke(app, ["validate"]).exit_code == 1  # DataError, which main() turns
    assert (folder / ".trilho/run/validation.json").exists()
    return folder


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    monkeypatch.setattr(Api, "pause", 0.01)
    monkeypatch.setattr(cml, "find", lambda: None)
    with github_api() as served:
        served.pull(7, branch="better", sha=SHA)
        yield served


def event(sha: str = SHA, repository: str = "octo/credit") -> dict[str, Any]:
    owner = {"login": repository.partition("/")[0]}
    head = {"sha": sha, "ref": "better", "repo": {"full_name": repository, "owner": owner}}
    return {"action": "synchronize", "pull_request": {"number": 7, "head": head}}


@pytest.fixture
def report(
    validated: Path, tmp_path: Path, github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> Report:
    """Run the verb as the action does, over a copy of the project."""
    place = tmp_path / "credit"
    shutil.copytree(validated, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(given: dict[str, Any] | None = None, **environment: str) -> Result:
        (place / "event.json").write_text(json.dumps(event() if given is None else given))
        for name in ("output", "summary"):
            (place / name).unlink(missing_ok=True)
        variables = github.environment() | {
            "GITHUB_EVENT_NAME": "pull_request",
            "GITHUB_EVENT_PATH": "event.json",
            "GITHUB_OUTPUT": "output",
            "GITHUB_SHA": "f" * 40,  # of the trial merge
            "GITHUB_STEP_SUMMARY": "summary",
            "TRILHO_COMMENT": "true",
            "TRILHO_NUMBERS": "",
            "TRILHO_TITLE": "",
        }
        return CliRunner().invoke(app, ["report"], env=variables | environment)

    return run


def outputs() -> dict[str, str]:
    text = Path("output").read_text(encoding="utf-8")
    found = re.findall(r"^([\w-]+)<<(\S+)\n(.*?)\n?\2$", text, re.M | re.S)
    return {name: value for name, _, value in found}


def test_the_report_is_posted_and_the_second_push_updates_it(
    report: Report, github: GitHub
) -> None:
    done = report()
    assert done.exit_code == 0, done.output
    [posted] = github.comments
    assert (posted.issue, posted.login) == (7, ACTIONS)
    told = outputs()
    assert told["comment-url"].endswith(f"/octo/credit/pull/7#issuecomment-{posted.id}")
    assert posted.body.endswith(Path(told["report-path"]).read_text(encoding="utf-8"))
    assert Path(told["html-path"]).read_text(encoding="utf-8").startswith("<!")
    figures = read_numbers(Path(told["numbers-path"]))
    assert (figures.verdict, figures.rows) == ("DATA REJECTED", 301)
    assert "DATA REJECTED" in Path("summary").read_text(encoding="utf-8")
    assert "::warning::cml is not on PATH" in done.output

    github.pull(7, branch="better", sha=NEWER)
    assert report(event(NEWER)).exit_code == 0
    assert github.comments == [posted]


def test_a_title_stands_above_the_report_and_makes_another_comment(
    report: Report, github: GitHub
) -> None:
    report()
    report(TRILHO_TITLE="Credit, *north* @all")
    assert [c.body.splitlines()[2] for c in github.comments] == [
        "## `data`",
        "# Credit, \\*north\\* @\u200ball",
    ]


def test_the_summary_has_the_report_once(report: Report, github: GitHub) -> None:
    report()
    assert Path("summary").read_text(encoding="utf-8").count("## `data`") == 1
    report()  # a verb of this job wrote it already
    assert not Path("summary").exists()


@pytest.mark.parametrize("asked", ["false", ""])
def test_nothing_is_posted_unasked(report: Report, github: GitHub, asked: str) -> None:
    done = report(TRILHO_COMMENT=asked)
    assert done.exit_code == 0
    assert github.requests == []
    assert outputs()["comment-url"] == ""


def test_a_switch_that_is_neither_is_refused(report: Report, github: GitHub) -> None:
    done = report(TRILHO_COMMENT="yes")
    assert isinstance(done.exception, UsageError)
    assert "TRILHO_COMMENT must be true or false" in str(done.exception)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ref": "refs/heads/main"}, "this run is not a pull request's"),
        (event(repository="mallory/credit"), "the run of a fork may not"),
    ],
)
def test_where_there_is_nothing_to_comment_on_a_notice_says_so(
    report: Report, github: GitHub, given: dict[str, Any], told: str
) -> None:
    done = report(given)
    assert done.exit_code == 0
    assert f"::notice::The report was not posted as a comment: {told}" in done.output
    assert github.requests == []
    assert outputs()["comment-url"] == ""


def test_an_older_run_does_not_overwrite_the_newer_ones_comment(
    report: Report, github: GitHub
) -> None:
    report()
    [posted] = github.comments
    before = posted.body
    github.pull(7, branch="better", sha=NEWER)
    done = report()
    assert done.exit_code == 0
    assert "a newer commit was pushed, cdcdcdcdcdcd" in done.output
    assert posted.body == before
    assert outputs()["comment-url"] == ""


def test_a_pull_request_that_cannot_be_read_is_commented_on_all_the_same(
    report: Report, github: GitHub
) -> None:
    github.fail("GET", "/pulls/7", 403, times=9, message="no")
    assert report().exit_code == 0
    assert len(github.comments) == 1


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ({"GITHUB_TOKEN": ""}, "GITHUB_TOKEN is not set"),
        ({"GITHUB_TOKEN": "ghs_expired0000"}, "401: Bad credentials"),
        ({"GITHUB_API_URL": "http://127.0.0.1:1"}, "GitHub does not answer"),
        ({"GITHUB_EVENT_PATH": "gone.json"}, "gone.json"),
    ],
)
def test_a_comment_that_cannot_be_posted_fails_no_report(
    report: Report, github: GitHub, trouble: dict[str, str], told: str
) -> None:
    done = report(**trouble)
    assert done.exit_code == 0, done.output
    warning = next(li for li in done.output.splitlines() if li.startswith("::warning::"))
    assert "The report was not posted as a comment; the job summary holds it." in warning
    assert told in warning
    assert "DATA REJECTED" in Path("summary").read_text(encoding="utf-8")
    assert outputs()["comment-url"] == ""


def test_a_missing_permission_is_named(report: Report, github: GitHub) -> None:
    done = report(GITHUB_TOKEN=github.read_token)
    assert done.exit_code == 0
    assert "Add `pull-requests: write` to the job's permissions" in done.output


def test_an_event_of_another_form_is_a_warning(report: Report, github: GitHub) -> None:
    done = report({"pull_request": {"number": "7; rm -rf /", "head": {}}})
    assert done.exit_code == 0
    assert "cannot be read as an event" in done.output
    assert github.requests == []
