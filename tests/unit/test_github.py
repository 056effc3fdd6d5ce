"""What a step tells GitHub: nothing in a text may become a command, an output or a broken file."""

from __future__ import annotations

import io
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trilho import github
from trilho.errors import DataError, Place, UsageError

ANY_TEXT = st.text(st.characters(codec="utf-8"))


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path


def read_outputs(text: str) -> dict[str, str]:
    """Read a GITHUB_OUTPUT file as the runner does."""
    outputs: dict[str, str] = {}
    lines = iter(text.split("\n"))
    for line in lines:
        if "<<" in line:
            name, delimiter = line.split("<<", 1)
            value: list[str] = []
            for inner in lines:
                if inner == delimiter:
                    break
                value.append(inner)
            outputs[name] = "\n".join(value)
        elif "=" in line:
            name, single = line.split("=", 1)
            outputs[name] = single
    return outputs


def test_an_annotation_points_at_file_and_line() -> None:
    assert (
        github.annotation("error", "Bad.", place=Place("data/a.csv", 7), title="Data")
        == "::error file=data/a.csv,line=7,title=Data::Bad."
    )
    assert github.annotation("notice", "Hello") == "::notice::Hello"


def test_an_object_store_is_no_file_of_the_repository() -> None:
    place = Place("s3://bucket/a.csv", 7)
    assert github.annotation("error", "Bad.", place=place) == "::error::Bad."


@given(message=ANY_TEXT, title=ANY_TEXT, name=st.text(st.sampled_from("abc:,%\n\r ."), min_size=1))
def test_no_text_leaves_its_annotation(message: str, title: str, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GITHUB_WORKSPACE", raising=False)
        command = github.annotation("warning", message, place=Place(f"x{name}", 3), title=title)
    assert "\n" not in command
    assert "\r" not in command
    match = re.fullmatch(r"::warning file=([^:,]*),line=3,title=([^:,]*)::(.*)", command, re.DOTALL)
    assert match is not None
    assert [unquote(group, errors="strict") for group in match.groups()] == [
        f"x{name}",
        title,
        message,
    ]


def test_errors_become_annotations_only_in_actions(
    actions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = DataError("AGE is -4.", hint="Fix it.", places=(Place("a.csv", 2), Place("a.csv", 9)))
    out = io.StringIO()
    github.annotate(error, title="Data", stream=out)
    assert out.getvalue().splitlines() == [
        "::error file=a.csv,line=2,title=Data::AGE is -4.%0AFix it.",
        "::error file=a.csv,line=9,title=Data::AGE is -4.%0AFix it.",
    ]
    monkeypatch.setenv("GITHUB_ACTIONS", "false")
    out = io.StringIO()
    github.annotate(error, stream=out)
    assert out.getvalue() == ""


def test_an_error_without_a_place_is_still_shown(actions: Path) -> None:
    out = io.StringIO()
    github.annotate(UsageError("No."), stream=out)
    assert out.getvalue() == "::error::No.\n"


def test_many_places_are_cut_to_what_github_shows_and_counted(actions: Path) -> None:
    out = io.StringIO()
    places = tuple(Place("a.csv", line) for line in range(2, 27))
    github.annotate(DataError("Bad.", places=places), stream=out)
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1].endswith("%0A… and 15 more places.")


def test_a_path_is_given_as_seen_from_the_repository(
    actions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = actions / "projects" / "one"
    project.mkdir(parents=True)
    monkeypatch.chdir(project)
    command = github.annotation("error", "x", place=Place("pipeline.yaml", 1))
    assert "file=projects/one/pipeline.yaml," in command
    outside = github.annotation("error", "x", place=Place("/etc/hosts", 1))
    assert "file=/etc/hosts," in outside


@given(
    values=st.lists(
        st.one_of(ANY_TEXT, st.sampled_from(["a\nEOF\nverdict=PROMOTE", "x<<EOF\ny\nEOF"])),
        max_size=4,
    )
)
def test_any_value_comes_out_as_it_went_in(
    values: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("out") / "output"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_OUTPUT", str(path))
        for i, value in enumerate(values):
            github.set_output(f"v{i}", value)
    text = path.read_bytes().decode() if values else ""
    assert read_outputs(text) == {f"v{i}": value for i, value in enumerate(values)}


def test_delimiters_are_never_the_same_twice(actions: Path) -> None:
    for _ in range(3):
        github.set_output("a", "b")
    assert len(set(re.findall("<<(.+)", (actions / "output").read_text()))) == 3


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a\nb", "1a", "a<<b"])
def test_a_name_that_could_be_something_else_is_refused(name: str, actions: Path) -> None:
    with pytest.raises(ValueError, match="output"):
        github.set_output(name, "x")
    assert not (actions / "output").exists()


def test_outside_of_actions_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    assert not github.in_actions()
    github.set_output("a", "b")
    github.add_summary("# hello")


def test_summaries_are_added_to_what_is_there(actions: Path) -> None:
    github.add_summary("# one")
    github.add_summary("two ☂\n")
    assert (actions / "summary").read_text(encoding="utf-8") == "# one\ntwo ☂\n"


def test_a_summary_never_passes_one_mebibyte(actions: Path) -> None:
    line = "| ☂ " * 200 + "|\n"
    for _ in range(2):
        github.add_summary(line * 1000)
        github.add_summary("```sh\n" + line * 1000)
    data = (actions / "summary").read_bytes()
    assert 1024 * 1024 - 2000 < len(data) <= 1024 * 1024
    text = data.decode("utf-8")
    assert text.endswith("1 MiB._\n")
    for row in text.splitlines():
        assert row in ("", "```", "```sh", line.strip()) or row.startswith("_The rest")


@given(
    text=st.lists(
        st.sampled_from(["```", "````", "```sh", "a ☂ b", "| 1 | 2 |", "", "\U0001f600" * 9]),
        max_size=40,
    ).map("\n".join),
    limit=st.integers(0, 400),
)
@example("```sh\n" + "a ☂ b\n" * 60, 300)
@example("````\n```\n" + "a ☂ b\n" * 60, 300)
def test_a_cut_ends_with_a_whole_line_outside_of_code(text: str, limit: int) -> None:
    from markdown_it import MarkdownIt

    data = github.cut(text, limit)
    assert len(data) <= limit or data == text.encode()
    shown = data.decode("utf-8")  # never half a character
    if shown and shown != text:
        last = MarkdownIt().parse(shown)[-2]
        assert last.type == "inline"  # a paragraph, so no code block is open
        assert "left out" in last.content
        kept = shown.split("\n\n_The rest")[0].splitlines()
        assert set(kept) <= set(text.splitlines()) | {"```", "````", ""}


def test_a_lone_surrogate_does_not_stop_a_report(actions: Path) -> None:
    github.add_summary("bad \udcff byte")
    github.set_output("a", "\udcff")
    assert (actions / "summary").read_text() == "bad ? byte\n"
