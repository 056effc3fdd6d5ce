"""The HTML report: one file that opens anywhere, offline, and that data cannot take over."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import chromium
import msgspec
import pytest
import report_inputs as made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import WHOLE_REPORTS, broken_names, nasty, with_names

from trilho.report import html

VOID = {"meta", "link", "br", "hr", "img", "input"}
PLOTS = {
    "binary": {
        "Difference from the champion", "ROC curve", "Precision and recall", "ROC AUC by slice",
        "Rates by group", "Reliability", "Scores", "What a threshold would do", "Confusion matrix",
        "Permutation importance", "Drift by column",
    },
    "first": {"Metrics of the candidate", "ROC curve", "ROC AUC by slice", "Confusion matrix"},
    "multiclass": {"Metrics of the candidate", "Confidence", "Confusion matrix"},
    "regression": {"Difference from the champion", "Residuals", "Permutation importance"},
    "invalid": set(),
}  # fmt: skip


@cache
def page_of(kind: str) -> str:
    return html(made_up.ALL[kind]())


@cache
def harmless(make: Any) -> Page:
    return Page(html(make(lambda: "name")))


class Page(HTMLParser):
    """The page's elements and attributes; fails on one that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    if chromium.PATH is None:
        pytest.skip("no Chromium on this machine to open the report with")
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def saved(folder: Path, text: str) -> str:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


# ---- in a real browser

CONTRAST = """(() => {
  const number = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => {
      v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = number(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || e.closest("style") || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const colour = number(e.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(e))].sort((p, q) => q - p);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([text, colour, behind(e)]);
  }
  return {seen, poor};
})()"""


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("kind", PLOTS)
def test_the_page_opens_clean_and_fits(
    kind: str, width: int, browser: chromium.Chromium, tmp_path: Path
) -> None:
    url = saved(tmp_path, page_of(kind))
    events = browser.open(url, width=width)
    requests = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert requests == [url]
    told = [
        e["params"]
        for e in events
        if e["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    ]
    assert told == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.compatMode") == "CSS1Compat"
    titles = browser.evaluate("[...document.querySelectorAll('figcaption')].map(e => e.innerText)")
    assert PLOTS[kind] <= set(titles)
    # a plot has ink, a size and a name for those who do not see it
    plots = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].map(e => [e.getBoundingClientRect().width,"
        " e.getBoundingClientRect().height, e.querySelectorAll('path, use').length,"
        " e.getAttribute('aria-label')])"
    )
    assert len(plots) == len(titles)
    for across, down, drawn, label in plots:
        assert across > 250
        assert down > 50
        assert drawn > 5
        assert len(label) > 15


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["binary", "rejected", "invalid"])
def test_all_text_is_legible(
    kind: str, scheme: str, browser: chromium.Chromium, tmp_path: Path
) -> None:
    browser.open(saved(tmp_path, page_of(kind)), width=1280, scheme=scheme)
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", back))) < 60) == (scheme == "dark")
    found = browser.evaluate(CONTRAST)
    assert found["seen"] > 20
    assert found["poor"] == []


def test_the_verdict_stays_in_sight(browser: chromium.Chromium, tmp_path: Path) -> None:
    browser.open(saved(tmp_path, page_of("rejected")), width=1280)
    browser.evaluate("window.scrollTo(0, 2500)")
    shown = browser.evaluate(
        "(() => { const r = document.querySelector('.pill').getBoundingClientRect();"
        " return document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2).innerText })()"
    )
    assert shown == "REJECT"


def test_nasty_names_run_nothing(browser: chromium.Chromium, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)></svg><script>document.title='taken'</script>"
    events = browser.open(saved(tmp_path, html(with_names(lambda: name))), width=400)
    assert [e for e in events if e["method"] == "Network.requestWillBeSent"][1:] == []
    assert [e for e in events if e["method"] == "Page.javascriptDialogOpening"] == []
    assert browser.evaluate("document.title") != "taken"
    assert browser.evaluate("document.querySelectorAll('img, script').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400


# ---- in the file


@pytest.mark.parametrize("kind", made_up.ALL)
def test_the_file_is_small_whole_and_the_same_each_time(kind: str) -> None:
    text = page_of(kind)
    assert text == html(made_up.ALL[kind]())
    assert len(text.encode()) < 400_000
    page = Page(text)
    assert "script" not in page.tags
    # nothing is fetched: no address but the workflow run's, no reference out of the page
    for _, key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value is not None
            assert value.startswith("#") or value == made_up.ALL[kind]().run_url
    assert not re.search(r"url\((?!#)|@import", text)
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())


def test_the_page_forbids_itself_everything_but_its_styles() -> None:
    text = page_of("binary")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in text
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import report_inputs as r\n"
        "from trilho.report import html; sys.stdout.buffer.write(html(r.binary()).encode())"
    )
    # a user's own matplotlib settings must not show
    (tmp_path / "matplotlibrc").write_text("axes.grid: True\nsavefig.bbox: tight\nfont.size: 30\n")
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(made_up.__file__).parent)],
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.decode() == page_of("binary")


@settings(WHOLE_REPORTS, max_examples=8)
@given(data=st.data())
@pytest.mark.parametrize("make", [with_names, broken_names])
def test_names_from_data_add_no_element(make: Any, data: st.DataObject) -> None:
    def name() -> str:
        return data.draw(nasty)

    page = Page(html(make(name)))
    plain = harmless(make)

    def outside_of_plots(tags: list[str]) -> list[str]:
        # how many ticks an axis has depends on the room that labels leave
        return [tag for tag in tags if tag not in ("g", "path", "use", "text", "code", "i")]

    assert outside_of_plots(page.tags) == outside_of_plots(plain.tags)
    assert {key for _, key, _ in page.attributes} <= {key for _, key, _ in plain.attributes} | {
        "clip-path", "transform",
    }  # fmt: skip


def test_absurdly_much_is_shown_in_part() -> None:
    inputs = made_up.binary()
    e, c = inputs.evaluation, inputs.comparison
    assert e is not None
    assert c is not None
    assert c.data is not None
    many = replace(
        inputs,
        evaluation=msgspec.structs.replace(
            e, importance=e.importance * 1000, slices=e.slices * 1000, fairness=e.fairness * 1000
        ),
        comparison=msgspec.structs.replace(
            c, data=msgspec.structs.replace(c.data, columns=c.data.columns * 1000)
        ),
    )
    text = html(many)
    assert len(text.encode()) < 1_500_000
    assert "The first 300 of 7,000 are shown." in text


def test_without_a_model_no_plots_are_loaded() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import report_inputs as r\n"
        "from trilho.report import html; html(r.invalid()); sys.exit('matplotlib' in sys.modules)"
    )
    folder = str(Path(made_up.__file__).parent)
    subprocess.run([sys.executable, "-c", script, folder], check=True)
