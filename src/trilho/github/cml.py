"""Runs CML (https://cml.dev), which posts a report as a comment on a pull request.

What its source says of 0.20.6, which decides when it may be used at all:

- `cml comment update` asks for one page of comments (30), takes the last of them that bears the
  watermark of `--watermark-title`, whoever wrote it, and overwrites it; else it creates one.
- It appends the watermark, an image without size whose address holds the commit.
- The commit is GITHUB_SHA; without one the watermark is such that no update ever finds it.
- For github.com it talks to api.github.com, for every other host to `https://HOST/api/v3`.
- The comment's address is its standard output; what goes wrong is JSON on standard error, exit 1.
- It adds `safe.directory = *` to the user's git configuration, and files to the home folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from trilho.errors import TrilhoError
from trilho.github.api import QUOTED, Api

SEEN = 30  # comments that CML looks at, from the oldest
TIMEOUT = 60.0  # seconds
ADDRESS = re.compile(r"https?://\S+#issuecomment-(\d+)")
# What it needs, and none of the step's secrets but the one token.
PASSED_ON = {
    *("PATH", "LANG", "TMPDIR", "GITHUB_REPOSITORY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}

Verb = Literal["create", "update"]


class CmlError(TrilhoError):
    """CML did not post; the message says why."""


def find() -> str | None:
    """Return where the program is."""
    found = shutil.which("cml")
    return str(Path(found).absolute()) if found else None


def server() -> str:
    return (os.environ.get("GITHUB_SERVER_URL") or "https://github.com").rstrip("/")


def api_of(server_url: str) -> str:
    """Return the REST API that CML takes for a server's."""
    parts = urlsplit(server_url)
    if parts.hostname == "github.com":
        return "https://api.github.com"
    return f"https://{parts.netloc}/api/v3"


def title(label: str) -> str:
    return f"trilho-{label}"


def bears_watermark(body: str, label: str) -> bool:
    """Whether CML would take a comment for the one that it is to update."""
    pattern = (
        r"!\[\]\(https://cml\.dev/watermark\.png#[0-9a-fA-F]+ "
        rf'"CML watermark {re.escape(title(label))}"\)'
    )
    return re.search(pattern, body) is not None


def comment(
    program: str, verb: Verb, api: Api, number: int, body: str, label: str, sha: str
) -> tuple[int, str]:
    """Let CML post, and return the comment's id and address.

    Parameters
    ----------
    program, verb
        The program, and what it does: `create`, or `update` by the rule above.
    api, number, body, label, sha
        The repository and the token, the pull request, the Markdown, the comment's name among
        ours, and the commit that the report is about.

    Raises
    ------
    CmlError
        It failed, or took longer than a minute; it may have posted all the same.
    """
    # A folder of its own: CML writes to the home folder and to the user's git configuration.
    with tempfile.TemporaryDirectory(prefix="trilho-cml-") as name:
        folder = Path(name)
        report = folder / "report.md"
        report.write_text(body, encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if key in PASSED_ON} | {
            "HOME": name,
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "GITHUB_SHA": sha,
            "REPO_TOKEN": api.token,
            "ITERATIVE_DO_NOT_TRACK": "1",
        }
        command = [
            *(program, "comment", verb),
            "--publish=false",  # by default it uploads every linked file to a public host
            "--driver=github",
            f"--repo={server()}/{api.repository}",
            f"--target=pr/{number}",
            f"--watermark-title={title(label)}",
            str(report),
        ]
        said, complaints, code = _run(command, folder, environment)
    found = ADDRESS.fullmatch(said.strip().rpartition("\n")[2])
    if code != 0 or found is None:
        why = _why(complaints).replace(api.token, "***") or "it did not say where the comment is"
        raise CmlError(f"cml comment {verb} failed (exit {code}): {why[:QUOTED]}")
    return int(found[1]), found[0]


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[str, str, int]:
    """Run a program with all that it starts, for a minute at most."""
    try:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise CmlError(f"cml cannot be run: {error.strerror or error}.") from None
    try:
        said, complaints = process.communicate(timeout=TIMEOUT)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CmlError(f"cml did not end within {TIMEOUT:g} s.") from None
        raise
    return said, complaints, process.returncode


def _why(complaints: str) -> str:
    """The message of the last line of JSON, or the last line as it is, on one line."""
    lines = [line for line in complaints.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("message"), str):
            return " ".join(record["message"].split())
    return " ".join(lines[-1].split()) if lines else ""
