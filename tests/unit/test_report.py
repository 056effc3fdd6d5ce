"""The Markdown report: what a reviewer must find in it, and what data must never do to it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
import report_inputs as made_up
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from trilho.evaluation.results import (
    ColumnChange,
    Difference,
    Estimate,
    Fairness,
    FairnessGroup,
    Flips,
    Importance,
    Slice,
    SliceDifference,
)
from trilho.report import ReportInputs, deployment, markdown
from trilho.report.markdown import LIMIT, code, sentence
from trilho.report.text import duration, figure, shorten, size, text_bar

NASTY = [
    "<img src=x onerror=alert(1)>",
    "](http://evil.example) [x",
    "![x](http://evil.example/x.png)",
    "@everyone",
    "a|b\\|c\\",
    "`x``y`",
    "</details></td>",
    "one\ntwo\r\n\n# three",
    "```\n> [!TIP]",
    "|---|",
    "\u202egnp.exe",
    "\x00\x1b[31m\ud800",
    "<!-- x",
    "&lt;b&gt; &#64;",
    "$x$ #12 GH-3 https://evil.example www.evil.example",
    "x" * 10_000,
    "`" * 300,
    "",
    "  ",
]
nasty = st.one_of(st.sampled_from(NASTY), st.text(max_size=30), st.text("`|\\<>[]()!@#&*_~$ \n"))

# Shrinking a failing report takes minutes and tells no more than the report itself.
WHOLE_REPORTS = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


class Tags(HTMLParser):
    """Counts the elements of rendered Markdown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.code_text = ""
        self.open_code = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open_code += tag == "code"
        self.links += [v or "" for k, v in attrs if k in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        self.open_code -= tag == "code"

    def handle_data(self, data: str) -> None:
        if self.open_code:
            self.code_text += data
        else:
            self.text += data


def render(text: str) -> Tags:
    return Tags(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


def shape(text: str) -> list[str]:
    """Return the elements of the report, all but the emphasis that stands for an empty name."""
    return [tag for tag in render(text).tags if tag not in ("em", "code", "span")]


def with_names(name: Callable[[], str]) -> ReportInputs:
    """Return a report in which every text that comes from data is a `name()`."""
    inputs = made_up.binary()
    e, c = inputs.evaluation, inputs.comparison
    assert e is not None
    assert c is not None
    column, label, feature, row = name(), name(), name(), name()
    estimate = Estimate(value=0.7, low=0.6, high=0.8)
    apart = Difference(candidate=0.7, champion=0.6, difference=0.1, low=0.05, high=0.15)
    group = FairnessGroup(label=label, rows=9, selection_rate=0.1, true_positive_rate=0.2)
    evaluation = msgspec.structs.replace(
        e,
        classes=[name(), name()],
        slices=[Slice(column=column, label=label, rows=9, positives=3,
                      metrics={"roc_auc": estimate})],
        fairness=[Fairness(column=column, groups=[group], selection_rate_gap=estimate,
                           true_positive_rate_gap=estimate)],
        importance=[Importance(feature=feature, mean=0.1, sd=0.01)],
        single_feature={feature: 0.6},
    )  # fmt: skip
    comparison = msgspec.structs.replace(
        c,
        slices=[SliceDifference(column=column, label=label, rows=9, metrics={"roc_auc": apart})],
        flips=Flips(fixed=1, broken=1, fixed_ids=[row], broken_ids=[row]),
        data=msgspec.structs.replace(
            c.data, columns=[ColumnChange(column=column, change="drifted", psi=0.2)]
        ),
        caveats=[f"It was {name()} so."],
    )
    results = [
        made_up.gate("slices", "fail", f"{column}={label}", message=f"Slice {name()} fell."),
        made_up.gate("limits"),
    ]
    return replace(
        inputs,
        name=name(),
        evaluation=evaluation,
        comparison=comparison,
        verdict=made_up.verdict("REJECT", f"Slice {name()} is worse.", results),
        validation=made_up.validation(),
        manifest=msgspec.structs.replace(made_up.manifest(), parameters={"a" + name(): name()}),
        reproduce=f"trilho train --set x={name()}",
    )


def broken_names(name: Callable[[], str]) -> ReportInputs:
    failures = [made_up.failure(name() or "x", f"isin({name()})", 2, [name(), name()])]
    return ReportInputs(name=name(), validation=made_up.validation(failures))


# ---- what a reviewer finds


def test_the_verdict_stands_first_with_its_reason() -> None:
    for inputs, alert, word in (
        (made_up.binary(), "[!TIP]", "**PROMOTE** — The candidate ranks better"),
        (made_up.multiclass(), "[!WARNING]", "**HOLD** — The interval"),
        (made_up.rejected(), "[!CAUTION]", "**REJECT** — ROC AUC is worse"),
        (made_up.invalid(), "[!CAUTION]", "**DATA REJECTED** — 3 checks"),
        (replace(made_up.binary(), verdict=None), "[!NOTE]", "**NO VERDICT** — "),
    ):
        heading, blank, first, second = markdown(inputs).splitlines()[:4]
        assert heading == f"## `{inputs.name}`"
        assert blank == ""
        assert first == f"> {alert}"
        assert second.startswith(f"> {word}")


def test_the_verdict_is_not_said_twice() -> None:
    summary = "Promote: every gate holds."
    text = markdown(replace(made_up.binary(), verdict=made_up.verdict(summary=summary)))
    assert "> **PROMOTE** — every gate holds." in text


def test_groups_that_fell_behind_come_first() -> None:
    inputs = made_up.binary()
    assert inputs.comparison is not None
    slices = list(inputs.comparison.slices)
    fallen = {"roc_auc": made_up.moved(0.6, 0.7, 0.02)}
    slices[7] = msgspec.structs.replace(slices[7], metrics=fallen)
    comparison = msgspec.structs.replace(inputs.comparison, slices=slices)
    text = markdown(replace(inputs, comparison=comparison))
    part = text[text.index("<b>Slices by ROC AUC</b> — 9 groups, 1 worse than the champion") :]
    first = part[part.index("| `") :].splitlines()[0]
    assert first.startswith("| `AGE` | `30 to 50` | 4,433 |")
    assert first.endswith("| −0.1000 | −0.1200 to −0.0800 | **worse** |")


def test_candidate_stands_beside_champion_with_difference_and_interval() -> None:
    text = markdown(made_up.binary())
    assert "### Candidate beside champion v3" in text
    assert "| Metric | Candidate | Champion | Difference | Interval |  |" in text
    row = "| ROC AUC (primary) | 0.7853 | 0.7792 | +0.0061 | +0.0012 to +0.0110 | better |"
    assert row in text
    assert "| −0.0137 | −0.0229 to −0.0045 | **worse** |" in text  # recall
    assert "| −0.0034 | −0.0055 to −0.0013 | better |" in text  # log loss: lower is better
    assert "| −0.0066 to +0.0196 | within noise |" in text
    assert "it may have seen some of these rows" in text


def test_the_gates_that_failed_come_first_and_unfolded() -> None:
    text = markdown(made_up.rejected())
    gates = text[text.index("### Gates") :]
    assert gates.index("**fail**") < gates.index("**unsure**") < gates.index("<details>")
    assert gates.index("<details>") < gates.index("| pass |")
    assert "0.0412 below the champion" in gates
    assert "About 1,900 hold-out rows would decide." in gates


def test_every_part_of_a_full_report_is_there() -> None:
    text = markdown(made_up.binary())
    for title in (
        "Gates", "Decisions that turned", "Slices by ROC AUC", "Fairness", "Calibration", "Scores",
        "Thresholds", "Confusion", "What the model looks at", "Data since the champion",
        "Data validation", "Speed and size", "Digests and origin",
    ):  # fmt: skip
        assert f"<summary><b>{title}</b>" in text
    assert "143 rows fixed, 121 broken" in text
    assert f"`{made_up.CANDIDATE}`" in text  # whole digest, to copy
    assert "27,000 training rows then, 30,000 now (+11.1%), 3 columns changed" in text
    assert "**drifted much**" in text
    assert text.rstrip().endswith(
        "```sh\ngit checkout 1f2e3d4 && trilho train --config pipeline.yaml\n```"
    )


def test_broken_data_is_told_by_check_and_by_row() -> None:
    text = markdown(made_up.invalid())
    assert "| `AGE` | `in_range(18, 100)` | 3 | 3 values of AGE fail in\\_range(18, 100). |" in text
    assert "| the dataset | `no_duplicate_ids` | 2 | " in text
    assert "| `AGE` | `1002` | 1,004 | `312` |" in text


def test_a_champion_that_cannot_be_scored_is_said_to_be_so() -> None:
    inputs = made_up.binary()
    impossible = msgspec.structs.replace(
        inputs.comparison, metrics={}, slices=[], flips=None, impossible="it wants column X."
    )
    text = markdown(replace(inputs, comparison=impossible))
    assert "The champion could not be scored on these rows: it wants column X." in text
    assert "| Metric | Candidate | Interval |" in text


@pytest.mark.parametrize("kind", made_up.ALL)
def test_every_kind_of_run_gives_a_whole_and_repeatable_report(kind: str) -> None:
    text = markdown(made_up.ALL[kind]())
    assert text == markdown(made_up.ALL[kind]())
    assert len(text) < LIMIT
    assert_well_formed(text)


def assert_well_formed(text: str) -> None:
    """Check by lines what GitHub is strict about: tables, folded parts, code blocks."""
    lines = text.splitlines()
    opened = 0
    columns = 0
    fence = ""
    for i, line in enumerate(lines):
        if fence:
            fence = "" if line == fence else fence
            continue
        if match := re.match("`{3,}", line):
            fence = match[0]
        opened += (line == "<details>") - (line == "</details>")
        assert opened >= 0
        if line.startswith("<summary>"):
            assert lines[i - 1] == "<details>"
            assert lines[i + 1] == ""
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not cells or not columns or cells == columns
        columns = cells
        if opened:
            assert not line.startswith("> [!")  # GitHub shows no alert inside of a fold
    assert not fence
    assert opened == 0


def test_numbers_stand_right_and_words_left() -> None:
    text = markdown(made_up.binary())
    after = text[text.index("| Metric |") :].splitlines()[1]
    assert after == "| --- | ---: | ---: | ---: | ---: | --- |"


def test_charts_are_small_and_have_a_table_beside() -> None:
    text = markdown(made_up.binary())
    charts = re.findall(r"```mermaid\n(.*?)```\n\n(\|?)", text, re.DOTALL)
    assert charts
    for chart, table in charts:
        assert chart.startswith("xychart-beta")
        points = re.findall(r"\[(.*?)\]", chart)
        assert {6 <= len(p.split(",")) <= 12 for p in points} == {True}
        assert table == "|"


def test_nothing_is_linked_but_the_run() -> None:
    assert render(markdown(made_up.binary())).links == [made_up.binary().run_url]
    bad = replace(made_up.binary(), run_url="javascript:alert(1)")
    assert render(markdown(bad)).links == []


# ---- what data must never do


@WHOLE_REPORTS
@given(data=st.data())
@pytest.mark.parametrize("make", [with_names, broken_names])
def test_names_from_data_never_change_the_report(make: Any, data: st.DataObject) -> None:
    text = markdown(make(lambda: data.draw(nasty)))
    assert len(text) < LIMIT
    text.encode()
    assert_well_formed(text)
    # exactly the elements of a report with harmless names: nothing added, closed or swallowed
    assert shape(text) == shape(markdown(make(lambda: "name")))
    rendered = render(text)
    assert not [link for link in rendered.links if "github.com/octo" not in link]
    # outside of code nothing that GitHub turns into a mention, a link or an issue after rendering
    assert not re.search(r"@\w|://|\bwww\.\w|#\d|GH-\d", rendered.text)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", text)


@given(nasty)
def test_a_name_is_shown_letter_by_letter(name: str) -> None:
    rendered = render(
        f"x {code(name)} y\n\n| a |\n| --- |\n| {code(name).replace('|', chr(92) + '|')} |"
    )
    wanted = shorten(name)
    if wanted:
        assert rendered.code_text == wanted * 2
    assert rendered.tags.count("td") == 1


@given(nasty)
def test_a_sentence_is_text_and_nothing_else(text: str) -> None:
    rendered = render(f"x\n\n{sentence(text)} end")
    assert set(rendered.tags) <= {"p", "span"}
    assert "code" not in rendered.tags


@settings(WHOLE_REPORTS, max_examples=15)
@given(
    slices=st.sampled_from([0, 1, 39, 41, 3000]),
    columns=st.sampled_from([0, 1, 45, 5000]),
    length=st.sampled_from([1, 60, 10_000]),
    sign=st.sampled_from("x`|<@\u2603*"),
)
def test_the_report_always_fits_and_is_cut_between_rows(
    slices: int, columns: int, length: int, sign: str
) -> None:
    name = sign * length
    inputs = with_names(lambda: name)
    e, c = inputs.evaluation, inputs.comparison
    assert e is not None
    assert c is not None
    assert c.data is not None
    evaluation = msgspec.structs.replace(
        e,
        slices=[msgspec.structs.replace(e.slices[0], label=f"{name}{i}") for i in range(slices)],
        fairness=e.fairness * min(columns, 50),
        importance=e.importance * columns,
        classes=[name] * 60,
        confusion=[[5] * 60] * 60,
    )
    comparison = msgspec.structs.replace(
        c, data=msgspec.structs.replace(c.data, columns=c.data.columns * columns),
        metrics={f"{name}{i}": d for i, d in enumerate(c.metrics.values())},
        caveats=c.caveats * 30,
    )  # fmt: skip
    results = [made_up.gate("slices", "fail", name, message=name) for _ in range(slices + columns)]
    text = markdown(
        replace(
            inputs,
            evaluation=evaluation,
            comparison=comparison,
            verdict=made_up.verdict("REJECT", f"First words. {name}", results),
            reproduce=f"trilho train {name}",
        )
    )
    assert len(text) < LIMIT
    assert_well_formed(text)
    assert text.splitlines()[2] == "> [!CAUTION]"
    assert "First words." in text
    if results:
        assert "### Gates" in text
    if len(results) > 40:
        assert re.search(r"_… and \d[\d,]* more gates?, see the HTML report\._", text)


# ---- figures


def test_figures_are_written_as_people_read_them() -> None:
    assert figure(0.78534) == "0.7853"
    assert figure(48211.43) == "48,211"
    assert figure(4821.43, signed=True) == "+4,821"
    assert figure(-0.00004, 4) == "0.0000"
    assert figure(-1234.5, 1) == "−1,234.5"
    assert figure(None) == figure(float("nan")) == "–"
    assert figure(float("-inf")) == "−∞"
    assert figure(3.2e-9) == "3.20e-09"
    assert figure(0.0087) == "0.0087"
    assert duration(41.72) == "41.7 µs"
    assert duration(4810) == "4.81 ms"
    assert duration(2.5e6) == "2.5 s"
    assert size(812_345) == "812 kB"
    assert size(1) == "1 byte"


@given(st.floats(0, 1), st.integers(1, 40))
def test_a_bar_is_as_long_as_its_share(share: float, width: int) -> None:
    bar = text_bar(share, width)
    assert abs(len(bar) - share * width) <= 1.125
    assert bool(bar) == (share > 0)


@given(st.text(max_size=300), st.integers(8, 80))
def test_shortened_text_is_one_short_line(text: str, length: int) -> None:
    short = shorten(text, length)
    assert len(short) <= length
    assert len(short.splitlines()) <= 1


# ---- the summary of a deployment


def test_a_rollback_says_why_before_anything_else() -> None:
    text = deployment(
        service="credit",
        outcome="rolled back",
        before=("v3", made_up.CHAMPION),
        after=("v4", made_up.CANDIDATE),
        reason="Golden row 2 answered 0.4, expected 0.2.",
        smoke="4 of 5 golden rows equal",
        details={"Task definition": "credit:18"},
    )
    lines = text.splitlines()
    assert lines[0] == "> [!CAUTION]"
    assert lines[1] == (
        "> **ROLLED BACK** — Golden row 2 answered 0.4, expected 0.2. Now version v3 serves again."
    )
    assert f"| Before | v3 `{made_up.CHAMPION}` |" in text
    assert f"| Asked for | v4 `{made_up.CANDIDATE}` |" in text
    assert "| Task definition | `credit:18` |" in text


def test_a_first_deployment_has_nothing_before() -> None:
    text = deployment(
        service="credit", outcome="deployed", before=None, after=("v1", made_up.CANDIDATE)
    )
    assert text.startswith("> [!TIP]\n> **DEPLOYED** — Version v1 serves.")
    assert "| Before | nothing |" in text


# ---- the house


def test_markdown_needs_no_plots_and_no_data_frames() -> None:
    check = (
        "import sys, trilho.report, trilho.github\n"
        "heavy = {'pandas', 'sklearn', 'matplotlib', 'jinja2', 'boto3'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
