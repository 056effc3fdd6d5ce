"""The issue about a rollback: opened once, with the facts, whatever people wrote as reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result
from workflows.github_api import GitHub, Issue, github_api

from trilho.cli import app
from trilho.deploy.rollout import Deployment, Running
from trilho.deploy.smoke import SmokeResult
from trilho.errors import DeploymentError, TrilhoError, UnavailableError, UsageError
from trilho.github.api import Api, ApiError
from trilho.github.issue import marker, open_once
from trilho.registry import Alias, Source
from trilho.report.rollback import rollback_issue

OLD, BAD = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    monkeypatch.setattr(Api, "pause", 0.01)
    with github_api() as served:
        served.pull(7)
        yield served


@pytest.fixture
def api(github: GitHub) -> Api:
    return Api(github.url, github.repository, github.token)


def test_an_issue_is_opened_once_and_what_follows_is_added(github: GitHub, api: Api) -> None:
    first = open_once(api, "credit", "Rolled back", "Facts.\n")
    [issue] = github.opened()
    assert first.new
    assert first.url == f"{github.server_url}/octo/credit/issues/{issue.number}"
    assert (issue.title, issue.body) == ("Rolled back", f"{marker('credit')}\n\nFacts.\n")
    second = open_once(api, "credit", "Rolled back", "More facts.\n")
    assert (second.url, second.new) == (first.url, False)
    assert open_once(api, "credit", "x", "y", again=False).url == first.url
    assert github.opened() == [issue]
    assert [c.body for c in github.comments_on(issue.number)] == ["More facts.\n"]


def test_a_closed_issue_is_over(github: GitHub, api: Api) -> None:
    open_once(api, "credit", "Rolled back", "Facts.\n")
    github.opened()[0].state = "closed"
    assert open_once(api, "credit", "Rolled back", "Facts.\n").new
    assert len(github.opened()) == 2


def test_an_issue_of_somebody_else_is_not_ours(github: GitHub, api: Api) -> None:
    person = Api(github.url, github.repository, github.add_token("mallory", kind="person"))
    open_once(person, "credit", "Nothing to see", "All is well.\n")
    assert open_once(api, "credit", "Rolled back", "Facts.\n").new
    assert [i.login for i in github.opened()] == ["mallory", "github-actions[bot]"]
    assert github.comments == []


def test_ours_is_found_among_many(github: GitHub, api: Api) -> None:
    first = open_once(api, "credit", "Rolled back", "Facts.\n")
    for number in range(100, 250):
        github.issues[number] = Issue(number, "Other", "Else.", "ana")
    assert open_once(api, "credit", "Rolled back", "Facts.\n").url == first.url


@pytest.mark.parametrize("status", [500, 0])
@pytest.mark.parametrize("done", [True, False])
def test_a_lost_answer_leaves_one_issue(github: GitHub, api: Api, status: int, done: bool) -> None:
    github.fail("POST", "issues$", status, done=done)
    assert open_once(api, "credit", "Rolled back", "Facts.\n").new
    assert len(github.opened()) == 1
    assert github.comments == []


def test_a_github_that_stays_away_ends_in_an_error(github: GitHub, api: Api) -> None:
    github.fail("POST", "issues$", 502, times=99)
    with pytest.raises(ApiError, match="502"):
        open_once(api, "credit", "Rolled back", "Facts.\n")
    assert len(github.sent("POST", "issues$")) == 3


# ---- what it says


def text_of(reason: str, **more: Any) -> tuple[str, str]:
    return rollback_issue(
        name="credit-default",
        service="credit",
        before=("v4", BAD),
        after=("v3", OLD),
        reason=reason,
        actor="ana",
        run_url="https://github.com/octo/credit/actions/runs/5",
        **more,
    )


def test_the_issue_has_the_facts() -> None:
    title, body = text_of("Too many refusals.")
    assert title == "credit-default: rolled back from v4 to v3"
    for fact in (BAD, OLD, "Too many refusals.", "`ana`", "actions/runs/5", "| Serves now | v3 |"):
        assert fact in body
    assert "- [ ]" in body
    title, body = text_of("Too many refusals.", failure="ECS said no. credit:4 serves again.")
    assert title.endswith("from v4 to v3 failed")
    assert body.startswith("> [!CAUTION]\n> **ROLLBACK FAILED** — ECS said no. credit:4 serves")


@given(st.text(max_size=2_000))
def test_a_reason_is_text_and_nothing_else(reason: str) -> None:
    _, plain = text_of("")
    _, body = text_of(f"@octocat #12 [x](https://evil.example) <b>| `x`\n# {reason}")
    assert len(body) < len(plain) + 3_500
    assert body.count("\n") == plain.count("\n")
    assert not re.search(r"[@＠][A-Za-z0-9]", body)
    assert not re.search(r"#\d", body)
    assert "https://evil" not in body
    assert "<b>" not in body
    line = next(li for li in body.splitlines() if li.startswith("| Reason"))
    assert len(re.findall(r"(?<!\\)\|", line)) == 3


# ---- the verb


CONFIG = """
name: credit-default
registry: {folder}/registry
data: {{path: data.csv, schema: schema.yaml, target: y}}
model: {{factory: "sklearn.linear_model:LogisticRegression"}}
deploy: {{cluster: main, service: credit, url: "http://127.0.0.1:1"}}
"""


@pytest.fixture
def champion(monkeypatch: pytest.MonkeyPatch) -> Alias:
    """Version 4 serves; it came after version 3."""
    source = Source(actor="ana")
    alias = Alias(
        name="champion", version=4, digest=BAD, moved_at="", source=source, from_version=3
    )
    monkeypatch.setattr("trilho.registry.Registry.alias", lambda *_: alias)
    versions = {3: OLD, 4: BAD}
    monkeypatch.setattr(
        "trilho.registry.Registry.version",
        lambda _, number: SimpleNamespace(number=number, digest=versions[number]),
    )
    return alias


def outcome(before: tuple[int, str], after: tuple[int, str]) -> Deployment:
    def ran(number: int, digest: str) -> Running:
        return Running(task_definition=f"credit:{number}", digest=digest, version=number)

    smoke = SmokeResult(
        url="http://model.example",
        digest=after[1],
        rows=3,
        largest_difference=0.0,
        tolerance=0.0,
        median_milliseconds=1.0,
        slowest_milliseconds=1.0,
        waited_seconds=0.0,
    )
    return Deployment(
        cluster="main",
        service="credit",
        before=ran(*before),
        after=ran(*after),
        changed=before != after,
        promoted=before != after,
        smoke=smoke,
        seconds=1.0,
        events=[],
    )


@pytest.fixture
def roll_back(
    tmp_path: Path, github: GitHub, champion: Alias, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run the verb with an outcome given, as rollback.yml does."""
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "pipeline.yaml").write_text(CONFIG.format(folder=tmp_path))

    def run(given: Deployment | TrilhoError, **environment: str) -> tuple[Result, str]:
        def go_back(*_: Any, **__: Any) -> Deployment:
            if isinstance(given, TrilhoError):
                raise given
            return given

        monkeypatch.setattr("trilho.deploy.rollback.rollback", go_back)
        (tmp_path / "output").unlink(missing_ok=True)
        env = github.environment() | {
            "GITHUB_ACTOR": "ana",
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "GITHUB_RUN_ID": "5",
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
            "TRILHO_CONFIG": str(tmp_path / "pipeline.yaml"),
            "TRILHO_ISSUE": "true",
            "TRILHO_REASON": "Bad @everyone",
            "TRILHO_TO": "",
        }
        done = CliRunner().invoke(app, ["rollback"], env=env | environment)
        output = tmp_path / "output"
        text = output.read_text() if output.exists() else ""
        found = re.search(r"^issue-url<<(\S+)\n(.*)\n\1$", text, re.M)
        return done, found[2] if found else ""

    return run


DONE = outcome((4, BAD), (3, OLD))


def test_a_rollback_opens_an_issue(roll_back: Any, github: GitHub) -> None:
    done, url = roll_back(DONE)
    assert done.exit_code == 0, done.output
    [issue] = github.opened()
    assert issue.title == "credit-default: rolled back from v4 to v3"
    assert url == f"{github.server_url}/octo/credit/issues/{issue.number}"
    assert "Bad @\u200beveryone" in issue.body
    assert f"{github.server_url}/octo/credit/actions/runs/5" in issue.body


def test_a_run_that_is_run_again_opens_no_second_one(
    roll_back: Any, github: GitHub, champion: Alias, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = roll_back(DONE)
    back = Alias(
        name="champion", version=3, digest=OLD, moved_at="", source=champion.source, from_version=4
    )
    monkeypatch.setattr("trilho.registry.Registry.alias", lambda *_: back)
    done, second = roll_back(outcome((3, OLD), (3, OLD)))
    assert done.exit_code == 0
    assert second == first
    assert len(github.opened()) == 1
    assert github.comments == []


def test_a_rollback_that_failed_is_told_and_its_success_is_added(
    roll_back: Any, github: GitHub
) -> None:
    done, url = roll_back(DeploymentError("ECS said no. credit:4 serves again."))
    assert isinstance(done.exception, DeploymentError)
    [issue] = github.opened()
    assert url.endswith(f"/issues/{issue.number}")
    assert "ECS said no. credit:4 serves again." in issue.body
    done, again = roll_back(DONE)
    assert again == url
    assert len(github.opened()) == 1
    assert "v3 serves again" in github.comments_on(issue.number)[0].body


def test_aws_out_of_reach_is_told_too(roll_back: Any, github: GitHub) -> None:
    done, url = roll_back(UnavailableError("ECS does not answer."))
    assert isinstance(done.exception, UnavailableError)
    assert url


def test_a_wrong_command_is_no_matter_for_an_issue(roll_back: Any, github: GitHub) -> None:
    done, url = roll_back(UsageError("Version 4 is the champion already."))
    assert isinstance(done.exception, UsageError)
    assert url == ""
    assert github.requests == []


def test_no_issue_is_opened_unasked(roll_back: Any, github: GitHub) -> None:
    done, url = roll_back(DONE, TRILHO_ISSUE="false")
    assert done.exit_code == 0
    assert url == ""
    assert github.requests == []


@pytest.mark.parametrize("trouble", ["read-only", "no token", "away"])
def test_an_issue_that_cannot_be_opened_fails_no_rollback(
    roll_back: Any, github: GitHub, trouble: str
) -> None:
    environment = {
        "read-only": {"GITHUB_TOKEN": github.read_token},
        "no token": {"GITHUB_TOKEN": ""},
        "away": {"GITHUB_API_URL": "http://127.0.0.1:1"},
    }[trouble]
    done, url = roll_back(DONE, **environment)
    assert done.exit_code == 0, done.output
    assert url == ""
    assert "::warning::No issue was opened" in done.output
    if trouble == "read-only":
        assert "`issues: write`" in done.output
    failed, _ = roll_back(DeploymentError("ECS said no."), **environment)
    assert isinstance(failed.exception, DeploymentError)
