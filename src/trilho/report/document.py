"""What a report is made of, before it is Markdown or HTML.

Both forms show the same document, so that they cannot tell different stories. Text in it is raw:
escaping is the business of each form.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Name:
    """A name from outside (column, category, row id, digest), shown letter by letter."""

    text: str


@dataclass(frozen=True)
class Mark:
    """A judgement in a word or two; `tone` is good, bad, unsure or muted."""

    text: str
    tone: str


@dataclass(frozen=True)
class Bar:
    """A bar, `share` of the full width long, with its figure."""

    share: float
    text: str


Cell = str | Name | Mark | Bar


@dataclass(frozen=True)
class Table:
    """Rows of cells; `align` has a letter for each column, l or r."""

    head: tuple[Cell, ...]
    align: str
    rows: list[tuple[Cell, ...]]
    noun: str = "row"  # what a row is, for the note on rows that are not shown


@dataclass(frozen=True)
class Paragraph:
    parts: tuple[Cell, ...]


@dataclass(frozen=True)
class Command:
    """Something to copy into a shell."""

    text: str


@dataclass(frozen=True)
class Series:
    """A small chart for where only a few points can be shown: bars, and a line over them."""

    title: str
    x_title: str
    y_title: str
    x: list[str]
    bars: list[float]
    line: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Folded:
    """Blocks behind a summary line."""

    summary: str
    blocks: list[Table | Paragraph | Command | Series]


Block = Table | Paragraph | Command | Series | Folded


@dataclass(frozen=True)
class Section:
    """A titled part; a folded one shows only its title and `lead` until it is opened."""

    key: str
    title: str
    blocks: list[Block]
    lead: str = ""
    folded: bool = True


@dataclass(frozen=True)
class Tile:
    """One figure worth a large print, with its comment."""

    label: str
    value: str
    below: Cell


@dataclass(frozen=True)
class Headline:
    """The verdict, and what a reader must know to place it."""

    word: str  # PROMOTE | HOLD | REJECT | DATA REJECTED | NO VERDICT
    tone: str  # good | unsure | bad | muted
    reason: str
    facts: list[tuple[str, Cell]]
    tiles: list[Tile]


@dataclass(frozen=True)
class Document:
    name: str
    headline: Headline
    sections: list[Section]
    link: str | None = None  # to the workflow run; https or http, nothing else
