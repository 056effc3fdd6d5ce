"""The one comment on a pull request: ours, found wherever it is, and nobody else's touched."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflows.github_api import ACTIONS, BODY_LIMIT, Comment, GitHub, github_api

from trilho.github import cml, comment
from trilho.github.api import Api, ApiError

NAME = "credit-default"
SHA = "ab" * 20
MARKER = comment.marker(NAME)
WATERMARK = f'![](https://cml.dev/watermark.png#{"cd" * 20} "CML watermark trilho-{NAME}")'
STAND_IN = Path(__file__).parents[1] / "workflows" / "cml_stand_in.py"
REAL = os.environ.get("TRILHO_TEST_CML")
Install = Callable[[str], Path]


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    """A server that CML can talk to as well, with an open pull request."""
    with github_api(tls=True) as served:
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        served.pull(7, sha=SHA)
        yield served


@pytest.fixture
def api(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(Api, "pause", 0.01)
    return Api.current()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a program `cml` on PATH, given as the lines of a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> Path:
        program = folder / "cml"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return write


def runs(program: str) -> str:
    """The line of a script that becomes CML, the real one or the stand-in."""
    if program == "stand-in":
        return f'exec {sys.executable} {STAND_IN} "$@"'
    if REAL is None:
        pytest.skip("TRILHO_TEST_CML names no checkout of CML; GitHub is out of reach in tests")
    assert shutil.which("node"), "CML needs node"
    return f'exec node "{REAL}/bin/cml.js" "$@"'


@pytest.fixture(params=["stand-in", "real"])
def program(request: pytest.FixtureRequest, install: Install, tmp_path: Path) -> Path:
    """CML on PATH; leaves its environment and its arguments in files."""
    line = runs(request.param)
    seen = tmp_path / "seen"
    install(f'env > {seen}.env; printf "%s\\n" "$@" > {seen}.args\n{line}')
    return seen


@pytest.fixture
def stand_in(install: Install) -> None:
    install(runs("stand-in"))


@pytest.fixture
def no_cml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cml, "find", lambda: None)


def post(api: Api, text: str, name: str = NAME) -> comment.Posted:
    return comment.post(api, 7, text, name, sha=SHA)


def ours(github: GitHub) -> list[Comment]:
    return [c for c in github.comments if c.login == ACTIONS]


# ---- by CML, the real one where there is a checkout, and its stand-in everywhere


def test_cml_posts_and_the_second_push_updates_the_one_comment(
    github: GitHub, api: Api, program: Path
) -> None:
    first = post(api, "# First\n")
    assert first.warnings == ()
    assert first.note == ""
    [written] = github.comments
    assert first.url == f"{github.server_url}/octo/credit/pull/7#issuecomment-{written.id}"
    assert written.body.startswith(f"{MARKER}\n\n# First\n")
    assert cml.bears_watermark(written.body, NAME)
    assert SHA in written.body

    second = post(api, "# Second, with [a file](data.csv) and ![an image](chart.png)\n")
    assert second == first
    assert github.comments == [written]
    assert "# Second, with [a file](data.csv) and ![an image](chart.png)\n" in written.body
    assert "# First" not in written.body


def test_cml_is_told_to_upload_nothing_to_report_nothing_and_gets_no_other_secret(
    github: GitHub, api: Api, program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret")
    monkeypatch.setenv("CML_COMMENT_TARGET", "issue/1")
    post(api, "Hello.\n")
    environment = program.with_suffix(".env").read_text()
    arguments = program.with_suffix(".args").read_text().splitlines()
    assert "ITERATIVE_DO_NOT_TRACK=1" in environment
    assert "aws-secret" not in environment
    assert "CML_COMMENT" not in environment
    assert arguments[:2] == ["comment", "update"]
    assert "--publish=false" in arguments
    assert "--target=pr/7" in arguments
    assert not any(api.token in argument for argument in arguments)
    # nothing is left of its home folder, nor of what it does to git's configuration
    home = re.search(r"^HOME=(.*)$", environment, re.M)
    assert home is not None
    assert not Path(home[1]).exists()
    assert f"GIT_CONFIG_GLOBAL={home[1]}/" in environment
    assert {r.method for r in github.requests} == {"GET", "POST"}


def test_somebody_elses_comment_with_our_watermark_is_left_alone(
    github: GitHub, api: Api, program: Path
) -> None:
    bait = f"{MARKER}\n\nMy own report.\n\n{WATERMARK}"
    theirs = github.comment(7, bait, login="mallory")
    done = post(api, "First.\n")
    assert done.note == "a comment of mallory bears our watermark, cml would overwrite it"
    assert program.with_suffix(".args").read_text().splitlines()[1] == "create"
    [mine] = ours(github)
    post(api, "Second.\n")
    assert ours(github) == [mine]
    assert "Second." in mine.body
    assert theirs.body == bait


def test_a_watermark_after_our_comment_does_not_draw_cml_away(
    github: GitHub, api: Api, program: Path
) -> None:
    post(api, "First.\n")
    theirs = github.comment(7, f"Quoted: {WATERMARK}", login="ana")
    done = post(api, "Second.\n")
    assert done.note == "cml would overwrite another comment, by ana"
    [mine] = ours(github)
    assert "Second." in mine.body
    assert theirs.body == f"Quoted: {WATERMARK}"


def test_our_comment_is_found_beyond_the_thirtieth(github: GitHub, api: Api, program: Path) -> None:
    for i in range(250):
        github.comment(7, f"comment {i}")
    first = post(api, "First.\n")
    assert first.note == ""  # none is ours, none looks it: CML may create it
    second = post(api, "Second.\n")
    assert second.note == "our comment is beyond the first 30, where cml would not find it"
    assert second.url == first.url
    [mine] = ours(github)
    assert "Second." in mine.body
    assert len(github.comments) == 251


def test_what_cml_complains_of_is_told_and_the_report_posted_all_the_same(
    github: GitHub, api: Api, program: Path
) -> None:
    github.fail("*", r"comments$", -1, do=lambda: None)  # our look comes through
    github.fail("*", r"comments$", 403, message="Resource not accessible by integration")
    done = post(api, "First.\n")
    assert done.warnings == (
        "cml comment update failed (exit 1): Resource not accessible by integration "
        "So the report is posted by the REST API.",
    )
    [mine] = github.comments
    assert mine.body == f"{MARKER}\n\nFirst.\n"


def test_a_comment_left_between_our_look_and_cmls_costs_no_report(
    github: GitHub, api: Api, program: Path
) -> None:
    def bait() -> None:
        github.comment(7, f"Mine! {WATERMARK}", login="mallory")

    github.fail("GET", r"comments$", -1, do=lambda: None)
    github.fail("GET", r"comments$", -1, do=bait)
    done = post(api, "First.\n")
    assert len(done.warnings) == 1
    assert "cml overwrote a comment of mallory" in done.warnings[0]
    [mine] = ours(github)
    assert done.url.endswith(f"#issuecomment-{mine.id}")
    assert "First." in mine.body


def test_a_second_report_of_another_name_has_a_comment_of_its_own(
    github: GitHub, api: Api, program: Path
) -> None:
    post(api, "Credit.\n")
    post(api, "Fraud.\n", "fraud")
    post(api, "Credit again.\n")
    assert [c.body.splitlines()[2] for c in github.comments] == ["Credit again.", "Fraud."]


# ---- without CML


def test_without_cml_the_report_is_posted_with_a_warning(
    github: GitHub, api: Api, no_cml: None
) -> None:
    done = post(api, "First.\n")
    assert len(done.warnings) == 1
    assert "cml is not on PATH" in done.warnings[0]
    [mine] = github.comments
    assert mine.body == f"{MARKER}\n\nFirst.\n"
    assert post(api, "Second.\n").url == done.url
    assert github.comments == [mine]
    assert mine.body == f"{MARKER}\n\nSecond.\n"


def test_a_comment_that_cml_did_not_write_is_not_left_to_it(
    github: GitHub, api: Api, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(cml, "find", lambda: None)
        post(api, "First.\n")
    install("exit 1")
    done = post(api, "Second.\n")
    assert done.warnings == ()
    assert "not written by cml" in done.note
    [mine] = github.comments
    assert "Second." in mine.body


def test_cml_that_takes_too_long_is_ended_with_all_that_it_started(
    github: GitHub, api: Api, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cml, "TIMEOUT", 0.5)
    child = tmp_path / "child"
    install(f"sleep 300 &\necho $! > {child}\nwait")
    started = time.monotonic()
    done = post(api, "First.\n")
    assert time.monotonic() - started < 30
    assert "cml did not end within 0.5 s." in done.warnings[0]
    assert len(github.comments) == 1
    stat = Path(f"/proc/{child.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] in "ZX"


@pytest.mark.parametrize("ending", ["exit 3", "echo 'no address'", "exec sleep 300"])
def test_cml_that_posts_and_then_fails_leaves_one_comment(
    github: GitHub, api: Api, install: Install, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(cml, "TIMEOUT", 5)
    install(f'{sys.executable} {STAND_IN} "$@" > /dev/null\n{ending}')
    done = post(api, "First.\n")
    assert len(done.warnings) == 1
    [mine] = github.comments
    assert done.url.endswith(f"#issuecomment-{mine.id}")
    assert github.sent("DELETE") == []  # it was found again, not replaced


def test_cml_that_cannot_be_run_is_told(github: GitHub, api: Api, install: Install) -> None:
    install("").write_bytes(b"\x7fELF nonsense")
    done = post(api, "First.\n")
    assert "cml cannot be run" in done.warnings[0]
    assert len(github.comments) == 1


def test_cml_is_not_run_where_it_would_talk_to_another_server(
    github: GitHub, api: Api, install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(f"touch {tmp_path}/ran")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    done = post(api, "First.\n")
    assert done.note == f"cml would talk to https://api.github.com, not to {github.url}"
    assert not (tmp_path / "ran").exists()
    assert len(github.comments) == 1


def test_the_token_stands_in_no_complaint_of_cml(
    github: GitHub, api: Api, install: Install
) -> None:
    install(f'echo \'{{"message": "token {api.token} is bad"}}\' >&2\nexit 1')
    done = post(api, "First.\n")
    assert "token *** is bad" in done.warnings[0]
    assert api.token not in done.warnings[0]


# ---- GitHub fails


def test_a_comment_deleted_under_our_hands_is_created_anew(
    github: GitHub, api: Api, no_cml: None
) -> None:
    post(api, "First.\n")
    github.fail("PATCH", "comments", -1, do=github.comments.clear)
    done = post(api, "Second.\n")
    [mine] = github.comments
    assert "Second." in mine.body
    assert done.url.endswith(f"#issuecomment-{mine.id}")
    assert [r.status for r in github.sent("PATCH")] == [404]


@pytest.mark.parametrize("status", [500, 0])
@pytest.mark.parametrize("done", [True, False])
def test_a_lost_answer_leaves_one_comment(
    github: GitHub, api: Api, no_cml: None, status: int, done: bool
) -> None:
    github.fail("POST", "comments", status, done=done)
    post(api, "First.\n")
    assert len(github.comments) == 1


def test_a_token_that_may_only_read_ends_in_one_clear_error(
    github: GitHub, api: Api, no_cml: None
) -> None:
    api.token = github.read_token
    with pytest.raises(ApiError, match="403") as caught:
        post(api, "First.\n")
    assert "`pull-requests: write`" in (caught.value.hint or "")
    assert len(github.sent("POST", "comments")) == 1


def test_two_runs_at_once_leave_the_newest(github: GitHub, api: Api, no_cml: None) -> None:
    # the other run posts between our look and our comment, and again right after it
    def other() -> None:
        github.comment(7, f"{MARKER}\n\nBefore.\n", login=ACTIONS)

    github.fail("POST", "comments", -1, do=other)
    done = post(api, "Mine.\n")
    [kept] = github.comments
    assert "Mine." in kept.body
    github.comment(7, f"{MARKER}\n\nAfter.\n", login=ACTIONS)
    again = post(api, "Mine again.\n")
    [kept] = github.comments
    assert "Mine again." in kept.body
    assert again.url != done.url


def test_a_duplicate_that_cannot_be_deleted_is_told(github: GitHub, api: Api, no_cml: None) -> None:
    github.comment(7, f"{MARKER}\n\nOld.\n", login=ACTIONS)
    github.comment(7, f"{MARKER}\n\nNewer.\n", login=ACTIONS)
    github.fail("DELETE", "comments", 403, message="no")
    done = post(api, "Mine.\n")
    assert any("is left over" in warning for warning in done.warnings)
    assert "Mine." in github.comments[-1].body


def test_an_edit_in_the_browser_keeps_the_comment_ours(
    github: GitHub, api: Api, no_cml: None
) -> None:
    post(api, "First.\n")
    github.comments[0].body = github.comments[0].body.replace("\n", "\r\n") + "edited"
    post(api, "Second.\n")
    assert len(github.comments) == 1


def test_a_persons_token_updates_the_persons_comment(
    github: GitHub, api: Api, no_cml: None
) -> None:
    github.comment(7, f"{MARKER}\n\nThe bot's.\n", login=ACTIONS)
    api.token = github.add_token("ana", kind="person")
    post(api, "First.\n")
    post(api, "Second.\n")
    assert [(c.login, c.body.split()[-1]) for c in github.comments] == [
        (ACTIONS, "bot's."),
        ("ana", "Second."),
    ]


def test_a_comment_of_a_deleted_account_is_not_ours() -> None:
    read = comment._read({"id": 1, "html_url": "x", "user": None, "body": None})
    assert not comment.is_ours(read, NAME, ACTIONS)


# ---- what is posted


@pytest.mark.usefixtures("stand_in")
def test_a_long_report_is_cut_where_github_would_refuse_it(github: GitHub, api: Api) -> None:
    text = "# Report\n\n" + "<details>\n<summary>Much</summary>\n\n```\n" + "é line\n" * 20_000
    done = post(api, text)
    assert done.warnings == ()
    [mine] = github.comments
    assert 60_000 < len(mine.body.encode()) <= BODY_LIMIT
    kept = mine.body.split("![](")[0]
    assert "é line\n```\n</details>\n\n_The rest was left out" in kept


@given(st.text(max_size=300), st.integers(0, 400))
def test_a_body_is_ours_and_no_longer_than_a_comment(text: str, times: int) -> None:
    body = comment.framed(text * times, NAME)
    assert len(body) <= comment.LIMIT
    body.encode()
    written = comment.Comment(1, "", ACTIONS, body)
    assert comment.is_ours(written, NAME, ACTIONS)
    assert not comment.is_ours(written, "credit-defaul", ACTIONS)
    assert not comment.is_ours(written, NAME, "mallory")


@given(st.text(max_size=200), st.text(max_size=200))
def test_names_of_comments_are_plain_and_differ_as_titles_do(title: str, other: str) -> None:
    name = comment.label(title)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= 50
    assert (name == comment.label(other)) == (title == other)
    # neither the marker nor CML's watermark is broken by it
    assert comment.marker(name).count("--") == 2
    mark = f'![](https://cml.dev/watermark.png#ab "CML watermark {cml.title(name)}")'
    assert cml.bears_watermark(f"x {mark} y", name)


NOT_FIRST = st.sampled_from(["", "> ", " . ", "Hello\n", "\n", "<!-- -->"])


@given(
    before=NOT_FIRST.filter(bool), author=st.sampled_from([ACTIONS, "mallory", "github-actions"])
)
def test_a_marker_that_is_quoted_makes_no_comment_ours(before: str, author: str) -> None:
    quoted = comment.Comment(1, "", author, f"{before}{MARKER}\n\nReport.")
    assert not comment.is_ours(quoted, NAME, ACTIONS)


COMMENTS = st.lists(
    st.tuples(
        st.sampled_from([ACTIONS, "mallory"]), st.booleans(), st.booleans(), st.integers(1, 12)
    ),
    max_size=12,
)


@given(COMMENTS)
def test_cml_is_asked_only_where_it_takes_the_right_comment(
    kinds: list[tuple[str, bool, bool, int]],
) -> None:
    there = []
    for author, marked, watermarked, times in kinds:
        body = (f"{MARKER}\n" if marked else "Hi\n") + (WATERMARK if watermarked else "")
        there += [comment.Comment(len(there) + i, "", author, body) for i in range(times)]
    # what CML would take: the last with the watermark among the first thirty
    taken = None
    for one in there[:30]:
        if WATERMARK in one.body:
            taken = one
    mine = [c for c in there if c.author == ACTIONS and c.body.startswith(MARKER)]
    verb, why = comment.choose(there, NAME, ACTIONS)
    if verb == "update":
        assert taken == (mine[-1] if mine else None)
        assert why == ""
    else:
        assert why
        assert taken != mine[-1] if mine else taken is not None
        assert (verb == "create") == (not mine)
