"""The report as GitHub Markdown, for a comment or a job summary.

Names come from data and are shown as code spans, in which GitHub interprets nothing: no HTML, no
link, no mention, no issue number. Sentences are escaped sign by sign.
"""

from __future__ import annotations

import html
import math
import re

from trilho.report.contents import document
from trilho.report.document import (
    Bar,
    Block,
    Cell,
    Command,
    Document,
    Folded,
    Mark,
    Name,
    Paragraph,
    Section,
    Series,
    Table,
)
from trilho.report.inputs import ReportInputs
from trilho.report.text import SENTENCE_LENGTH, counted, one_line, shorten, text_bar, visible

LIMIT = 60_000  # GitHub takes 65,536 characters; a comment has a frame of its own
ROWS = (40, 20, 10, 5)  # rows of a table, tried until the report fits
ALERTS = {"good": "TIP", "unsure": "WARNING", "bad": "CAUTION", "muted": "NOTE"}
BREAK = "\u200b"  # a space of no width, which parts what GitHub would make a link or a mention


def markdown(inputs: ReportInputs) -> str:
    """Return the report as Markdown of fewer than 60,000 characters.

    What is too long is cut by whole table rows, then by whole sections from the end, each with a
    note; verdict and gates stand first and stay.
    """
    content = document(inputs)
    for rows in ROWS:
        head, sections = _head(content), [_section(s, rows) for s in content.sections]
        text = "\n\n".join([head, *sections]) + "\n"
        if len(text) < LIMIT:
            return text
    left_out: list[str] = []
    while len(text) >= LIMIT:
        sections.pop()
        left_out.insert(0, content.sections[len(sections)].title)
        note = f"_Left out here for length, see the HTML report: {', '.join(left_out)}._"
        text = "\n\n".join([head, *sections, note]) + "\n"
    return text


def alert(tone: str, word: str, reason: str) -> str:
    """Return a GitHub alert with the word in bold and the reason beside it."""
    return f"> [!{ALERTS[tone]}]\n> **{word}** — {sentence(reason)}"


def code(text: str) -> str:
    """Return a name as a code span that nothing in the name can close."""
    text = shorten(text)
    if not text:
        return "_(blank)_"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def sentence(text: str) -> str:
    """Return free text on one line; no sign in it means anything to Markdown or GitHub."""
    text = shorten(text, SENTENCE_LENGTH)
    text = html.escape(text, quote=False)
    text = re.sub(r"([\\`*_\[\]~])", r"\\\1", text)
    text = re.sub(r"^([-+=#]+|\d+[.)])(?=\s|$)", BREAK + r"\1", text)  # a heading, a list, a rule
    text = text.replace("$", "<span>$</span>")
    # a mention, a link, an issue number, an address
    return re.sub(r"(?i)(@|#(?=\d)|GH-(?=\d)|:(?=//)|\bwww(?=\.))", rf"\1{BREAK}", text)


def table(head: tuple[str, ...], align: str, rows: list[tuple[str, ...]]) -> str:
    """Return a table of cells that are Markdown already."""
    rule = ["---:" if a == "r" else "---" for a in align]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [escaped[0], rule, *escaped[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fenced(text: str) -> str:
    """Return a code block that nothing in the text can close."""
    text = visible(text.strip())
    fence = "`" * (1 + max(2, *(len(run) for run in re.findall("`+", text)), 0))
    return f"{fence}sh\n{text}\n{fence}"


def _head(content: Document) -> str:
    headline = content.headline
    facts = " · ".join(f"{label} {_cell(value)}" for label, value in headline.facts)
    parts = [
        f"## {code(content.name)}",
        alert(headline.tone, headline.word, headline.reason),
        facts,
    ]
    if content.link is not None:
        parts[-1] += (" · " if facts else "") + f"[workflow run]({content.link})"
    return "\n\n".join(part for part in parts if part)


def _section(section: Section, rows: int) -> str:
    body = [_block(block, rows) for block in section.blocks]
    if section.folded:
        lead = f" — {html.escape(one_line(section.lead))}" if section.lead else ""
        return _details(f"<b>{html.escape(section.title)}</b>{lead}", body)
    return "\n\n".join([f"### {section.title}", *body])


def _details(summary: str, body: list[str]) -> str:
    return "\n\n".join([f"<details>\n<summary>{summary}</summary>", *body, "</details>"])


def _block(block: Block, rows: int) -> str:
    match block:
        case Table():
            shown = [tuple(_cell(cell) for cell in row) for row in block.rows[:rows]]
            text = table(tuple(map(_cell, block.head)), block.align, shown)
            if left := len(block.rows) - len(shown):
                text += f"\n\n_… and {counted(left, 'more ' + block.noun)}, see the HTML report._"
            return text
        case Paragraph():
            return "".join(_cell(part) for part in block.parts)
        case Command():
            return fenced(block.text)
        case Series():
            return _mermaid(block)
        case Folded():
            return _details(
                html.escape(one_line(block.summary)), [_block(b, rows) for b in block.blocks]
            )


def _cell(cell: Cell) -> str:
    match cell:
        case Name():
            return code(cell.text)
        case Mark():
            return f"**{cell.text}**" if cell.tone in ("bad", "unsure") else cell.text
        case Bar():
            return f"{text_bar(cell.share)} {cell.text}".strip()
        case str():
            # keep the spaces at the ends, which part a sentence from the name beside it
            before = " " if cell[:1].isspace() else ""
            after = " " if cell[-1:].isspace() else ""
            return before + sentence(cell) + after if cell else ""


def _mermaid(series: Series) -> str:
    """Return an `xychart-beta`; every text in it is the report's own, none is data."""
    values = [v for v in series.bars + series.line if math.isfinite(v)]
    top = max(values, default=1.0)
    bottom = min(0.0, *values) if values else 0.0
    lines = [
        "```mermaid",
        "xychart-beta",
        f'    title "{series.title}"',
        f'    x-axis "{series.x_title}" [{", ".join(series.x)}]',
        f'    y-axis "{series.y_title}" {bottom:.4g} --> {top if top > bottom else bottom + 1:.4g}',
        f"    bar [{', '.join(f'{v:.4g}' for v in series.bars)}]",
    ]
    if series.line:
        lines.append(f"    line [{', '.join(f'{v:.4g}' for v in series.line)}]")
    return "\n".join([*lines, "```"])
