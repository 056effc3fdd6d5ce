"""The comment on a fork's pull request: figures from a file that a stranger wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import report_inputs as made_up
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result
from workflows.github_api import ACTIONS, GitHub, github_api

from trilho.cli import app
from trilho.errors import DataError, UsageError
from trilho.github.api import Api
from trilho.report.fork import fork_report
from trilho.report.numbers import LARGEST_FILE, Numbers, numbers, read_numbers

SHA = "ab" * 20
RUN_URL = "https://github.com/octo/credit/actions/runs/42"


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    monkeypatch.setattr(Api, "pause", 0.01)
    with github_api(tls=True) as served:  # where CML would find it, too
        served.pull(3, sha="c" * 40)
        served.pull(7, "mallory/credit", "better", SHA)
        yield served


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with no pipeline.yaml, and an honest file of figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "numbers.json").write_bytes(msgspec.json.encode(numbers(made_up.first())))
    return tmp_path


def run_event(**changes: Any) -> dict[str, Any]:
    fork = {"full_name": "mallory/credit", "owner": {"login": "mallory"}}
    run = {
        "event": "pull_request",
        "head_branch": "better",
        "head_sha": SHA,
        "head_repository": fork,
        "html_url": RUN_URL,
        "pull_requests": [],
    }
    return {"action": "completed", "workflow_run": run | changes}


def report(
    place: Path, github: GitHub, event: dict[str, Any] | None = None, **environment: str
) -> Result:
    """Run the verb as report-fork.yml does."""
    (place / "event.json").write_text(json.dumps(event or run_event()))
    for file in ("output", "summary"):
        (place / file).unlink(missing_ok=True)
    given = github.environment() | {
        "GITHUB_EVENT_NAME": "workflow_run",
        "GITHUB_EVENT_PATH": str(place / "event.json"),
        "GITHUB_OUTPUT": str(place / "output"),
        "GITHUB_STEP_SUMMARY": str(place / "summary"),
        "TRILHO_COMMENT": "true",
        "TRILHO_TITLE": "",
        "TRILHO_NUMBERS": str(place / "numbers.json"),
    }
    return CliRunner().invoke(app, ["report"], env=given | environment)


def test_the_figures_are_posted_to_the_pull_request_of_the_run(place: Path, github: GitHub) -> None:
    done = report(place, github)
    assert done.exit_code == 0, done.output
    [posted] = github.comments
    assert (posted.issue, posted.login) == (7, ACTIONS)
    assert "**NOT VERIFIED**" in posted.body
    assert "computed by the fork's own code and are not verified" in posted.body
    assert "| ROC AUC | 0.7853 |" in posted.body
    assert made_up.CANDIDATE in posted.body
    assert SHA in posted.body
    assert RUN_URL in posted.body
    assert f"#issuecomment-{posted.id}" in (place / "output").read_text()
    assert "NOT VERIFIED" in (place / "summary").read_text()
    # the second push
    newer = "cd" * 20
    github.pull(7, "mallory/credit", "better", newer)
    assert report(place, github, run_event(head_sha=newer)).exit_code == 0
    assert github.comments == [posted]
    assert newer in posted.body


def test_cml_and_the_pipeline_are_left_out_of_it(
    place: Path, github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "pipeline.yaml").write_text("name: [broken")
    bin_ = place / "bin"
    bin_.mkdir()
    (bin_ / "cml").write_text(f"#!/bin/sh\ntouch {place}/ran\n")
    (bin_ / "cml").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    done = report(place, github)
    assert done.exit_code == 0
    assert "::warning" not in done.output
    assert len(github.comments) == 1
    assert not (place / "ran").exists()


def test_a_pull_request_that_moved_on_is_left_to_the_newer_run(place: Path, github: GitHub) -> None:
    github.pull(7, "mallory/credit", "better", "ef" * 20)
    done = report(place, github)
    assert done.exit_code == 0
    assert "::notice::The pull request #7 has moved on to efefefefefef" in done.output
    assert github.comments == []
    assert "comment-url" in (place / "output").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"head_branch": "another"},
        # another repository of the same owner, with a branch of the same name
        {"head_repository": {"full_name": "mallory/else", "owner": {"login": "mallory"}}},
    ],
)
def test_nothing_is_posted_where_no_open_pull_request_is_that_runs(
    place: Path, github: GitHub, change: dict[str, Any]
) -> None:
    done = report(place, github, run_event(**change))
    assert done.exit_code == 0
    assert "::notice::No open pull request comes from mallory:" in done.output
    assert github.comments == []


def test_a_closed_pull_request_gets_no_comment(place: Path, github: GitHub) -> None:
    github.pull(7, "mallory/credit", "better", SHA, state="closed")
    assert report(place, github).exit_code == 0
    assert github.comments == []


def test_an_artifact_cannot_choose_the_pull_request(place: Path, github: GitHub) -> None:
    figures = json.loads((place / "numbers.json").read_text())
    (place / "numbers.json").write_text(json.dumps(figures | {"pull_request": 3, "number": 3}))
    done = report(place, github)
    assert isinstance(done.exception, DataError)
    assert done.exception.exit_code == 3
    assert github.requests == []


@pytest.mark.parametrize("event", [{}, run_event(event="push")])
def test_it_follows_runs_of_pull_requests_only(
    place: Path, github: GitHub, event: dict[str, Any]
) -> None:
    done = report(place, github, event or {"action": "x"})
    assert isinstance(done.exception, UsageError)
    assert github.requests == []


def test_an_event_that_is_no_event_is_refused(place: Path, github: GitHub) -> None:
    done = report(place, github, run_event(head_sha="$(id)"))
    assert isinstance(done.exception, UsageError)
    assert "GITHUB_EVENT_PATH" in str(done.exception)


def test_a_comment_that_github_refuses_is_a_warning(place: Path, github: GitHub) -> None:
    done = report(place, github, GITHUB_TOKEN=github.read_token)
    assert done.exit_code == 0
    assert "::warning::The figures were not posted as a comment." in done.output
    assert "`pull-requests: write`" in done.output
    assert "NOT VERIFIED" in (place / "summary").read_text()


def test_without_a_wish_to_comment_the_summary_has_it(place: Path, github: GitHub) -> None:
    done = report(place, github, TRILHO_COMMENT="false")
    assert done.exit_code == 0
    assert github.requests == []
    assert "NOT VERIFIED" in (place / "summary").read_text()


def test_two_titles_have_two_comments(place: Path, github: GitHub) -> None:
    for title in ("Credit @all", "Fraud", "Credit @all"):
        assert report(place, github, TRILHO_TITLE=title).exit_code == 0
    assert len(github.comments) == 2
    assert "## Credit @\u200ball\n" in github.comments[0].body


# ---- the file


@pytest.mark.parametrize("kind", list(made_up.ALL))
def test_what_the_report_writes_is_read_again(kind: str, tmp_path: Path) -> None:
    given = numbers(made_up.ALL[kind]())
    path = tmp_path / "numbers.json"
    path.write_bytes(msgspec.json.encode(given))
    assert path.stat().st_size < LARGEST_FILE / 4
    assert read_numbers(path) == given
    shown = fork_report(given, title=None, sha=SHA, run_url=RUN_URL)
    assert given.verdict in shown


def test_figures_say_what_they_are() -> None:
    compared = numbers(made_up.binary())
    assert compared.champion_version == 3
    auc = compared.metrics["roc_auc"]
    assert auc.candidate is not None
    assert auc.difference is not None
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low <= auc.difference <= auc.high < auc.candidate
    alone = numbers(made_up.first()).metrics["roc_auc"]
    assert (alone.champion, alone.difference) == (None, None)
    assert alone.low is not None
    assert alone.candidate is not None
    assert alone.high is not None
    assert alone.low <= alone.candidate <= alone.high
    assert numbers(made_up.invalid()).verdict == "DATA REJECTED"
    assert numbers(made_up.rejected()).verdict == "REJECT"


HONEST = json.loads(msgspec.json.encode(numbers(made_up.binary())))


def refused(path: Path, data: bytes) -> DataError:
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_numbers(path)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b'{"name": "x"}',
        b"[" * 60_000,
        b'{"metrics":' * 5_000,
        json.dumps(HONEST).encode() + b" " * LARGEST_FILE,
        json.dumps(HONEST | {"note": "@everyone"}).encode(),
        json.dumps(HONEST | {"verdict": "PROMOTE\n"}).encode(),
        json.dumps(HONEST | {"verdict": "promote"}).encode(),
        json.dumps(HONEST | {"digest": HONEST["digest"] + "\n"}).encode(),
        json.dumps(HONEST | {"digest": HONEST["digest"].upper()}).encode(),
        json.dumps(HONEST | {"name": "x\n"}).encode(),
        json.dumps(HONEST | {"rows": True}).encode(),
        json.dumps(HONEST | {"rows": 1.5}).encode(),
        json.dumps(HONEST | {"rows": -1}).encode(),
        json.dumps(HONEST | {"rows": 10**30}).encode(),
        json.dumps(HONEST | {"metrics": {"a": {"candidate": "1"}}}).encode(),
        json.dumps(HONEST | {"metrics": {"a": {"candidate": True}}}).encode(),
        json.dumps(HONEST | {"metrics": {"a": {"candidate": 1, "why": "x"}}}).encode(),
        json.dumps(HONEST | {"metrics": {"a": {"candidate": 10**400}}}).encode(),
        json.dumps(HONEST | {"metrics": {"A": {}}}).encode(),
        json.dumps(HONEST | {"metrics": {"a\n": {}}}).encode(),
        json.dumps(HONEST | {"metrics": {"a" * 41: {}}}).encode(),
        json.dumps(HONEST | {"metrics": {f"m{i}": {} for i in range(65)}}).encode(),
        json.dumps(HONEST | {"metrics": {"a": {"candidate": float("nan")}}}).encode(),
        json.dumps(HONEST | {"metrics": {"a": {"candidate": float("-inf")}}}).encode(),
        b'{"name":"x","verdict":"HOLD","metrics":{"a":{"candidate":1e999}}}',
    ],
)
def test_a_file_of_another_form_is_refused_and_not_quoted(tmp_path: Path, data: bytes) -> None:
    error = refused(tmp_path / "numbers.json", data)
    assert error.exit_code == 3
    told = f"{error} {error.hint}"
    assert "everyone" not in told
    assert len(told) < 400


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    honest = tmp_path / "honest.json"
    honest.write_text(json.dumps(HONEST))
    assert read_numbers(honest)
    for name in ("link", "fifo", "folder", "missing"):
        path = tmp_path / name
        if name == "link":
            path.symlink_to(honest)
        elif name == "fifo":
            os.mkfifo(path)
        elif name == "folder":
            path.mkdir()
        with pytest.raises(DataError):
            read_numbers(path)


HOSTILE = st.sampled_from(
    [
        "@octocat",
        "https://evil.example/x.png",
        "![x](https://evil.example)",
        "<img src=x onerror=alert(1)>",
        "::error::x",
        "\n\n# Approved",
        "${{ secrets.X }}",
        "$(id)",
        "a" * 5_000,
        "\u202egnp",
        "`|",
        "<!-- trilho comment fork -->",
    ]
)
ODD = st.one_of(
    HOSTILE,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.lists(HOSTILE, max_size=3),
    st.dictionaries(HOSTILE, HOSTILE, max_size=3),
)


@st.composite
def forged(draw: st.DrawFn) -> Any:
    """An honest file with some of its parts replaced, renamed or added by a stranger."""
    document: Any = json.loads(json.dumps(HONEST))
    for _ in range(draw(st.integers(1, 4))):
        inside = draw(st.sampled_from(["top", "metrics", "figure"]))
        part = document
        if inside != "top" and isinstance(part.get("metrics"), dict):
            part = part["metrics"]
            names = [name for name in part if isinstance(part[name], dict)]
            if inside == "figure" and names:
                part = part[draw(st.sampled_from(sorted(names)))]
        key = draw(st.one_of(st.sampled_from([*sorted(part), "x"]), HOSTILE))
        part[key] = draw(ODD)
    return document


ALPHABET = set(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n|:-–−+.,'`*_>![]#()/²∞e"
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forged())
def test_nothing_that_a_stranger_writes_comes_through(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "numbers.json"
    path.write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))
    try:
        read = read_numbers(path)
    except DataError as error:
        told = f"{error} {error.hint}"
        assert not any(bad in told for bad in ("evil", "octocat", "secrets"))
        return
    shown = fork_report(read, title=None, sha=SHA, run_url=RUN_URL)
    honest = shown.replace(RUN_URL, "").replace("—", "-")
    assert set(honest) <= ALPHABET, set(honest) - ALPHABET
    assert len(shown) < 20_000
    for bad in ("evil", "octocat", "@", "http", "<", "Approved", "secrets", "aaaa"):
        assert bad not in honest


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.from_regex(r"\A[a-z0-9_]{1,40}\Z"),
        st.lists(st.one_of(st.none(), st.floats(-1e300, 1e300)), min_size=5, max_size=5),
        max_size=64,
    )
)
def test_any_figures_are_shown_in_tables_of_ours(metrics: dict[str, list[float | None]]) -> None:
    fields = ("candidate", "champion", "difference", "low", "high")
    given_ = {
        "name": "x",
        "verdict": "HOLD",
        "metrics": {
            name: dict(zip(fields, values, strict=True)) for name, values in metrics.items()
        },
    }
    shown = fork_report(msgspec.convert(given_, Numbers), title=None, sha=SHA, run_url=RUN_URL)
    _, _, table = shown.partition("| Metric |")
    assert len({line.count("|") for line in table.splitlines()[1:] if "|" in line}) <= 1
    # a name that is a sentence (this_model_is_approved) is counted, not shown
    for name in metrics:
        if name not in ("roc_auc",) and len(name) > 12:
            assert name not in shown
