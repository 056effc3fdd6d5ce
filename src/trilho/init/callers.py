"""Workflows for a repository of one's own, which call those of Trilho's at a tag or commit.

`workflows/` holds copies of Trilho's own, byte for byte (`make callers`): they are the example that
every test runs. In another repository their `$/` stands for Trilho's name, and the inputs say what
is there.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from trilho.errors import UsageError

PLACE = Path(".github/workflows")
REFERENCE = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+@[\w][\w./-]*")
RAIL = re.compile(r"( +)uses: \$/\.github/workflows/model-c[id]\.yml\n(?P<given>\1with:\n)?")


def callers(trilho: str, folder: Path) -> dict[Path, str]:
    """Return the workflows that call Trilho's, by the files that they belong into.

    Parameters
    ----------
    trilho
        Trilho's repository and the tag or commit to call, `OWNER/trilho@v1`.
    folder
        The root of the repository; a `requirements.txt` and a folder `tests` there are handed on.

    Returns
    -------
    dict of Path to str
        To be written.

    Raises
    ------
    UsageError
        `trilho` is not of that form, or a file is there already.
    """
    if not REFERENCE.fullmatch(trilho):
        raise UsageError(
            f"--workflows must name Trilho's repository and a tag or commit, not {trilho!r}.",
            hint="Such as --workflows OWNER/trilho@v1.",
        )
    own = {"requirements": "requirements.txt", "tests": "tests"}
    inputs = {name: path for name, path in own.items() if (folder / path).exists()}
    texts = {
        folder / PLACE / source.name: caller(source.read_text(encoding="utf-8"), trilho, inputs)
        for source in sorted(files(__package__).joinpath("workflows").iterdir(), key=str)
    }
    if there := [str(path.relative_to(folder)) for path in texts if path.exists()]:
        raise UsageError(
            f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} there already; "
            "nothing was written.",
            hint="Remove what is to be written anew.",
        )
    return texts


def caller(text: str, trilho: str, inputs: dict[str, str]) -> str:
    """Return a workflow of Trilho's as another repository calls it."""
    text = re.sub(r" +tests: tests/project\n", "", text)  # the example's
    repository, _, reference = trilho.partition("@")

    def call(found: re.Match[str]) -> str:
        indent, given = found[1], inputs
        if "model-cd" in found[0]:  # what is merged was tested
            given = {name: path for name, path in inputs.items() if name != "tests"}
        lines = [f"{indent}  {name}: {path}\n" for name, path in given.items()]
        rest = text[found.end() :]
        more = found["given"] and rest.startswith(f"{indent}  ")
        head = f"{indent}with:\n" if lines or more else ""
        return found[0].removesuffix(found["given"] or "") + head + "".join(lines)

    text = RAIL.sub(call, text)
    return re.sub(r"uses: \$/(\S+)", rf"uses: {repository}/\1@{reference}", text)
