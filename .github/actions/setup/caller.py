"""The caller's own requirements, installed beside the lock, and the conflicts between the two.

uv is the only judge of versions. When it refuses the file, each line is tried alone, and for the
lines that fail the venv is filled against the lock's will (its pins as overrides): `uv pip check`
then names every package that does not get what it wants. The environment is spoilt by that, which
is why it only happens when the step fails anyway.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from environment import Uv
from runner import Problem, SetupError, failed

ADVICE = "Loosen this line: Trilho runs with the versions of its lock."
COMPLAINT = re.compile(
    r"^The package `(?P<who>[^`]+)` requires `(?P<wants>[^`]+)`, but `(?P<has>[^`]+)` is installed$"
)
WITNESS = "trilho-witness"  # a distribution that exists only to require what a line requires


@dataclass(frozen=True)
class Line:
    """One requirement, or one option, and where it stands."""

    text: str
    path: Path
    number: int

    @property
    def is_option(self) -> bool:
        """Whether it says how to install (an index, a constraint), not what."""
        return self.text.startswith("-") and not self.text.startswith(("-e", "--editable"))

    @property
    def witness(self) -> str | None:
        """The requirement as a distribution's metadata would say it; None for a path or an URL."""
        text = re.split(r"\s+(?:#|--)", self.text, maxsplit=1)[0].strip()
        return text if re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*($|[\[<>=!~;(@])", text) else None


def read_lines(path: Path) -> list[Line]:
    """Return the requirements of a file and of the files that it includes."""
    return list(_read(path, seen=set()))


def install(uv: Uv, requirements: Path, lock: Path) -> None:
    """Install the caller's requirements beside the lock.

    Raises
    ------
    SetupError
        With one problem for each conflict.
    """
    refused = uv.try_install(requirements, constraints=lock)
    if refused is None:
        return
    problems = list(_conflicts(uv, read_lines(requirements), lock))
    if problems:
        raise SetupError(problems)
    error = failed(f"{requirements.name} cannot be installed.", refused)
    raise SetupError([Problem(error.problems[0].message, requirements)], max(error.exit_code, 2))


def _conflicts(uv: Uv, lines: list[Line], lock: Path) -> Iterator[Problem]:
    options = "".join(f"{line.text}\n" for line in lines if line.is_option)
    pins = uv.freeze()
    locked = {pin.split("==")[0] for pin in pins.splitlines()}
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder, "line.txt")
        overrides = Path(folder, "pins.txt")
        overrides.write_text(pins, encoding="utf-8")
        for line in lines:
            if line.is_option:
                continue
            alone.write_text(f"{options}{line.text}\n", encoding="utf-8")
            refused = uv.try_install(alone, constraints=lock, dry=True)
            if refused is None:
                continue
            known = set(uv.check())
            with _standing_in(uv, line):
                uv.try_install(alone, overrides=overrides)
                found = [COMPLAINT.match(text) for text in uv.check() if text not in known]
            named = [_name(match, line) for match in found if match and _package(match) in locked]
            for message in named:
                yield Problem(f"{message}\n{ADVICE}", line.path, line.number)
            if not named:
                message = f"{line.text} cannot be installed beside the lock.\n{refused}"
                yield Problem(message, line.path, line.number)


def _package(match: re.Match[str]) -> str:
    """Return the name of the package that is not as somebody wants it."""
    return re.split(r"[^A-Za-z0-9._-]", match["wants"], maxsplit=1)[0]


def _name(match: re.Match[str], line: Line) -> str:
    who = "this line" if match["who"] == WITNESS else f"{match['who']} (by {line.text})"
    return f"{_package(match)}: {who} wants {match['wants']}, the lock holds {match['has']}."


@contextmanager
def _standing_in(uv: Uv, line: Line) -> Iterator[None]:
    """While it lasts, a distribution that requires what the line requires seems installed."""
    if line.witness is None:
        yield
        return
    folder = uv.site_packages() / f"{WITNESS.replace('-', '_')}-0.dist-info"
    metadata = f"Name: {WITNESS}\nVersion: 0\nRequires-Dist: {line.witness}\n"
    folder.mkdir()
    try:
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}", encoding="utf-8")
        (folder / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\n", encoding="utf-8")
        yield
    finally:
        shutil.rmtree(folder)


def _read(path: Path, seen: set[Path]) -> Iterator[Line]:
    if path in seen:  # uv says what is wrong with that
        return
    seen.add(path)
    text, start = "", 0
    raws = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, raw in enumerate(raws, start=1):
        start = start if text else number
        text += raw
        if text.endswith("\\"):
            text = text[:-1]
            continue
        whole = re.sub(r"(^|\s+)#.*$", "", text).strip()
        text = ""
        if match := re.fullmatch(r"(?:-r|--requirement)[\s=]*(\S+)", whole):
            yield from _read((path.parent / match[1]).resolve(), seen)
        elif whole:
            yield Line(whole, path, start)
