"""What GitHub Actions reads from a step: annotations, outputs and the job summary.

Every text that comes from data, files or pull requests goes through here, so that none of it can
start a workflow command or another output.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path
from typing import Literal, TextIO

from trilho.errors import Place, TrilhoError

Level = Literal["error", "warning", "notice"]

SUMMARY_LIMIT = 1024 * 1024  # bytes in one step's summary; GitHub drops the whole of a larger one
ANNOTATIONS = 10  # of each level in one step; GitHub drops the rest without a word
FOLDS = 8  # folded sections within each other that a cut closes
CLOSING = 17 + FOLDS * len("\n</details>")  # bytes to close a code block and those sections
CUT = "\n\n_The rest was left out: a job summary holds 1 MiB._\n"


def in_actions() -> bool:
    """Tell whether this process runs in a GitHub Actions step."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation(
    level: Level, message: str, *, place: Place | None = None, title: str | None = None
) -> str:
    """Return the workflow command that shows `message` on the run and beside the line it is about.

    Escaping as the runner's own toolkit does it (actions/toolkit, `command.ts`).
    """
    properties: dict[str, str] = {}
    if place is not None and "://" not in place.path:
        properties["file"] = _in_workspace(place.path)
        if place.line is not None:
            properties["line"] = str(place.line)
    if title is not None:
        properties["title"] = title
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{level}{' ' if listed else ''}{listed}::{_data(message)}"


def annotate(error: TrilhoError, *, title: str | None = None, stream: TextIO | None = None) -> None:
    """Print an annotation for each place of the error, at most ten; outside of Actions, nothing.

    Parameters
    ----------
    error
        Its message, with the hint on a line of its own, is the annotation's text.
    title
        Bold line above the message.
    stream
        Standard error when None: standard output belongs to `--json`.
    """
    if not in_actions():
        return
    message = error.message if error.hint is None else f"{error.message}\n{error.hint}"
    places: list[Place | None] = list(error.places) or [None]
    for i, place in enumerate(places[:ANNOTATIONS]):
        more = len(places) - ANNOTATIONS
        last = i == ANNOTATIONS - 1 and more > 0
        text = f"{message}\n… and {more} more places." if last else message
        print(annotation("error", text, place=place, title=title), file=stream or sys.stderr)


def set_output(name: str, value: str) -> None:
    """Add a step output; outside of Actions, nothing.

    The value stands between delimiters that nobody can guess, so it may hold any text.

    Raises
    ------
    ValueError
        For a name that is no output's name.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):
        raise ValueError(f"{name!r} cannot be the name of an output")
    if path := os.environ.get("GITHUB_OUTPUT"):
        delimiter = f"trilho-{secrets.token_hex(16)}"
        _append(Path(path), f"{name}<<{delimiter}\n{value}\n{delimiter}\n".encode(**_UTF8))


def add_summary(markdown: str) -> None:
    """Add Markdown to the step's summary; outside of Actions, nothing.

    What would take the summary above 1 MiB is cut off at the end of a line, with a note.
    """
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        file = Path(path)
        there = file.stat().st_size if file.exists() else 0
        text = markdown if markdown.endswith("\n") else markdown + "\n"
        _append(file, cut(text, SUMMARY_LIMIT - there))


def cut(markdown: str, limit: int, note: str = CUT) -> bytes:
    """Return `markdown` as at most `limit` bytes of UTF-8 that end with a whole line and `note`.

    What the cut would leave open (a code block, folded sections) is closed, so that the note is
    read as text and by everybody.
    """
    data = markdown.encode(**_UTF8)
    if len(data) <= limit:
        return data
    room = limit - len(note.encode()) - CLOSING
    if room <= 0:
        return b""
    kept = data[: data.rfind(b"\n", 0, room) + 1]
    fence = b""
    folds = 0
    for line in kept.splitlines():
        if match := re.match(rb"`{3,16}", line):
            if not fence:
                fence = match[0]
            elif re.fullmatch(fence + rb"`*\s*", line):
                fence = b""
        elif not fence:
            folds += (line == b"<details>") - (line == b"</details>")
    closed = b"\n</details>" * min(max(folds, 0), FOLDS)
    return kept + fence + closed + note.encode()


_UTF8 = {"encoding": "utf-8", "errors": "replace"}  # a lone surrogate must not stop a report


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as f:
        f.write(data)


def _in_workspace(path: str) -> str:
    """Return the path as seen from the repository's root, as annotations want it."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    if workspace is None:
        return path
    try:
        return Path(path).resolve().relative_to(Path(workspace).resolve()).as_posix()
    except ValueError:
        return path


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
