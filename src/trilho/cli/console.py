"""How the verbs talk: progress and tables on stderr for people, one JSON object on stdout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trilho.errors import TrilhoError

if TYPE_CHECKING:
    from trilho.github.commands import Level

err = Console(stderr=True, highlight=False, soft_wrap=True)
MARKS = {"done": "[green]✓[/]", "same": "[cyan]=[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}


@dataclass
class Step:
    """One line of progress: a name, what is being done now, and at the end what came of it."""

    name: str
    result: str = ""
    mark: str = "done"
    _status: Any = None

    def tell(self, doing: str) -> None:
        """Show what is being done now."""
        if self._status is not None:
            self._status.update(f"[bold]{self.name:<9}[/] {escape(doing)}")

    def keep(self, line: str) -> None:
        """Show what is being done now, and leave the line above what comes."""
        say(f"  {line}", dim=True)
        self.tell(line)

    def close(self, result: str, mark: str = "done") -> None:
        """Say what came of it; `mark` is done, same, warn or fail."""
        self.result, self.mark = result, mark


@contextmanager
def step(name: str) -> Iterator[Step]:
    """Show a step while it runs, then one line with its result and time."""
    start = time.perf_counter()
    with err.status(f"[bold]{name:<9}[/]") as status:
        current = Step(name, _status=status)
        try:
            yield current
        except BaseException:
            current.mark = "fail"
            raise
        finally:
            seconds = time.perf_counter() - start
            line = f"{MARKS[current.mark]} [bold]{name:<9}[/] {escape(harmless(current.result))}"
            status.stop()
            err.print(f"{line} [dim]{seconds:.1f} s[/]")


def say(text: str, *, before: str = "", dim: bool = False) -> None:
    """Print text on stderr as it is: neither markup nor a workflow command, whoever wrote it."""
    shown = escape(harmless(text))
    err.print(before + (f"[dim]{shown}[/]" if dim else shown))


def warn(message: str) -> None:
    """Print a warning, as an annotation too when on GitHub Actions."""
    _annotated("warning", message, "[yellow]warning:[/] ")


def notice(message: str) -> None:
    """Print something worth noticing, as an annotation too when on GitHub Actions."""
    _annotated("notice", message, "")


def alarm(message: str) -> None:
    """Print what somebody must look at although the verb did its work; red, too, on GitHub."""
    _annotated("error", message, "[red bold]ALARM:[/] ")


def _annotated(level: Level, message: str, before: str) -> None:
    from trilho import github

    say(message, before=before)
    if github.in_actions():
        print(github.annotation(level, message), file=sys.stderr)


def table(
    title: str | None,
    columns: list[str],
    rows: list[list[str]],
    right: set[int],
    *,
    stderr: bool = False,
) -> None:
    """Print a table; the columns in `right` are aligned to the right."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        shown.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(harmless(cell)) for cell in row))
    # a pipe has no width of its own: give it whole lines
    stream = sys.stderr if stderr else sys.stdout
    Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 200).print(shown)


def harmless(text: str) -> str:
    """Break what GitHub Actions would take for a command: text from data must not start one."""
    return text.replace("::", ":\u200b:").replace("##[", "#\u200b#[")


def emit(value: Any) -> None:
    """Write one JSON object to stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


# The metrics that a reader asks for first, of any task.
HEADLINE = ("roc_auc", "roc_auc_ovr", "rmse", "r2", "gini", "balanced_accuracy", "f1", "f1_macro")


def headline(metrics: dict[str, float | None], most: int = 3) -> list[str]:
    """Return the names of the metrics to show where there is room for a few."""
    return [name for name in HEADLINE if name in metrics][:most]


def number(value: float | None, digits: int = 4) -> str:
    """A figure for people: significant digits, thousands separators, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def show_error(error: TrilhoError) -> None:
    """Print an error where people and GitHub Actions look for it."""
    from trilho import github

    say(error.message, before="[red bold]error:[/] ")
    if error.hint:
        say(error.hint, before="[bold]hint:[/] ")
    github.annotate(error)


def debugging() -> bool:
    """Whether tracebacks are wanted (`--debug` sets the variable)."""
    return os.environ.get("TRILHO_DEBUG", "") not in ("", "0")
