"""Where the rail runs: Python, the runner's image, the actions that its workflows call."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from pathlib import Path

from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, bad, doubt, good

# The month after which nobody mends it any more (peps.python.org, ubuntu.com/about/release-cycle).
PYTHONS = {
    "3.11": date(2027, 10, 31),
    "3.12": date(2028, 10, 31),
    "3.13": date(2029, 10, 31),
    "3.14": date(2030, 10, 31),
}
UBUNTUS = {
    "ubuntu22": date(2027, 4, 30),
    "ubuntu24": date(2029, 4, 30),
    "ubuntu26": date(2031, 4, 30),
}
NOTICE = 180  # days before that at which it is time to move
COMMIT = re.compile(r"[0-9a-f]{40}")
USES = re.compile(r"""^\s*(?:-\s+)?["']?uses["']?\s*:\s*["']?([^\s"'#]+)""", re.MULTILINE)


def python(c: Context) -> Finding:
    found = ".".join(platform.python_version_tuple()[:2])
    newest = max(PYTHONS, key=lambda v: PYTHONS[v])
    if found not in PYTHONS:
        return bad(
            f"Python {found} is not one that Trilho is tested with: {', '.join(PYTHONS)}",
            f"uv venv --python {newest}  # on GitHub the input python-version: '{newest}'",
        )
    return _lasts(
        c, f"Python {found}", PYTHONS[found], f"# take the input python-version: '{newest}'"
    )


def image(c: Context) -> Finding:
    """The runner's image, which GitHub-hosted runners name in ImageOS."""
    env = os.environ
    if not env.get("RUNNER_OS"):
        raise Unknown("this is no runner of GitHub Actions")
    if env["RUNNER_OS"] != "Linux":
        return doubt(
            f"the runner has {env['RUNNER_OS']}; the actions are tested on Linux",
            "# take runs-on: ubuntu-latest",
        )
    name = env.get("ImageOS", "")
    if not name:
        raise Unknown("a runner of your own does not say which image it has")
    shown = f"{name} {env.get('ImageVersion', '')}".strip()
    if name not in UBUNTUS:
        return doubt(f"{shown} is not known here", "# take runs-on: ubuntu-latest")
    return _lasts(c, shown, UBUNTUS[name], "# take runs-on: ubuntu-latest")


def pins(c: Context) -> Finding:
    """Whether other people's actions are pinned by commit."""
    root = c.folder / ".github"
    files = [p for p in sorted(root.rglob("*.y*ml")) if p.suffix in (".yaml", ".yml")]
    used = [(p, uses) for p in files for uses in USES.findall(_text(p)) if _foreign(uses)]
    if not used:
        raise Unknown(f"{root} calls no action of other people")
    loose = [(p, uses) for p, uses in used if not COMMIT.fullmatch(uses.rpartition("@")[2])]
    if not loose:
        return good(f"{len(used)} uses of other people's actions, all pinned by commit")
    _, first = loose[0]
    action, _, tag = first.partition("@")
    repository = "/".join(action.split("/")[:2])
    return doubt(
        "a tag can be moved to other code: "
        + ", ".join(sorted({f"{uses} ({p.name})" for p, uses in loose})),
        f"gh api repos/{repository}/commits/{tag or 'HEAD'} --jq .sha"
        "  # then write that behind the @, for each of them",
    )


def _foreign(uses: str) -> bool:
    """Whether it is somebody else's: not this repository's own, and not Trilho's."""
    return not uses.startswith(("./", "$/", "docker://")) and "/trilho/.github/" not in uses


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _lasts(c: Context, what: str, until: date, mend: str) -> Finding:
    left = (until - c.today.date()).days
    if left < 0:
        return bad(f"{what}: nobody mends it since {until:%B %Y}", mend)
    if left < NOTICE:
        return doubt(f"{what}: nobody mends it after {until:%B %Y}", mend)
    return good(f"{what}, mended until {until:%B %Y}")
