"""A release: its tag, its notes, the major tag that follows; each step as it runs on GitHub.

GitHub is a bare repository beside the checkout. `gh` is a stand-in that holds to this contract:

- `gh release view TAG` ends with 0 if there is a release of that tag, else with 1;
- `gh release create TAG --verify-tag --title T --latest=true|false --notes-file FILE` makes it; it
  fails if there is one already or the repository has no such tag;
- `gh auth git-credential` gives git a password, which a bare repository on disk never asks for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "release.py"
GH = """#!{python}
import json, os, subprocess, sys
from pathlib import Path
state = Path(os.environ["GH_STATE"])
releases = json.loads(state.read_text()) if state.exists() else {{}}
match sys.argv[1:]:
    case ["release", "view", tag]:
        sys.exit(0 if tag in releases else 1)
    case ["release", "create", tag, "--verify-tag", "--title", title, latest, "--notes-file", file]:
        tags = subprocess.check_output(["git", "ls-remote", "--tags", "origin", tag])
        if tag in releases or not tags:
            sys.exit("HTTP 422: Validation Failed")
        notes = Path(file).read_text()
        releases[tag] = {{"title": title, "latest": latest, "notes": notes}}
        state.write_text(json.dumps(releases))
    case _:
        sys.exit(f"unknown command {{sys.argv[1:]}}")
"""
CHANGELOG = """# Changelog

## [Unreleased]

## [1.3.0] - 2026-03-03

### Added

- Three.

## [1.2.1] - 2026-02-03

- Mended two.

## [1.2.0] - 2026-02-02

- Two.

[1.2.0]: https://example.com/1.2.0
"""


@dataclass
class Project:
    """A checkout of a repository on GitHub."""

    folder: Path

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(
            command, cwd=self.checkout, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def tag(self, version: str, *, annotated: bool = True) -> str:
        """Set the version in a commit, tag it and push both; return the commit."""
        text = f'[project]\nname = "x"\nversion = "{version}"\n'
        (self.checkout / "pyproject.toml").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", version)
        self.git("tag", *(["-a", "-m", version] if annotated else []), f"v{version}")
        self.git("push", "-q", "origin", f"v{version}")
        return self.git("rev-parse", "HEAD")

    def run(self, step: str, tag: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'programs'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "GH_STATE": str(self.folder / "releases.json")}
        return subprocess.run(
            [sys.executable, SCRIPT, step, tag],
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def release(self, version: str) -> str:
        """Check out a tag as the workflow does and publish it; return the log."""
        self.git("checkout", "-q", f"v{version}")
        done = self.run("publish", f"v{version}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def releases(self) -> dict[str, dict[str, str]]:
        file = self.folder / "releases.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def on_github(self, tag: str) -> str:
        """The commit of a tag there; empty without one."""
        listed = self.git("ls-remote", "origin", f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}")
        return listed.splitlines()[-1].split()[0] if listed else ""

    def stand_in(self, program: str, text: str) -> None:
        path = self.folder / "programs" / program
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    (tmp_path / "programs").mkdir()
    project.stand_in("gh", GH.format(python=sys.executable))
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "github"], check=True)
    subprocess.run(["git", "init", "-q", "-b", "main", project.checkout], check=True)
    project.git("remote", "add", "origin", str(tmp_path / "github"))
    (project.checkout / "CHANGELOG.md").write_text(CHANGELOG)
    return project


def test_a_release_has_its_notes_and_the_major_tag(project: Project) -> None:
    commit = project.tag("1.2.0")
    project.release("1.2.0")
    assert project.releases() == {
        "v1.2.0": {"title": "v1.2.0", "latest": "--latest=true", "notes": "- Two.\n"}
    }
    assert project.on_github("v1") == commit


def test_the_major_tag_follows_the_next_release(project: Project) -> None:
    project.tag("1.2.0")
    project.release("1.2.0")
    commit = project.tag("1.3.0", annotated=False)
    project.release("1.3.0")
    assert project.on_github("v1") == commit
    assert project.releases()["v1.3.0"]["notes"] == "### Added\n\n- Three.\n"


def test_an_older_line_is_released_without_moving_anything_back(project: Project) -> None:
    project.tag("1.2.0")
    newest = project.tag("1.3.0")
    project.release("1.3.0")
    project.git("checkout", "-q", "v1.2.0")
    project.tag("1.2.1")
    log = project.release("1.2.1")
    assert "v1 stays at v1.3.0, which is newer than v1.2.1" in log
    assert project.on_github("v1") == newest
    assert project.releases()["v1.2.1"]["latest"] == "--latest=false"


def test_another_major_version_has_another_tag(project: Project) -> None:
    text = CHANGELOG.replace("## [1.3.0]", "## [2.0.0] - 2026-04-04\n\n- Four.\n\n## [1.3.0]")
    first = project.tag("1.3.0")
    project.release("1.3.0")
    (project.checkout / "CHANGELOG.md").write_text(text)
    second = project.tag("2.0.0")
    project.release("2.0.0")
    assert (project.on_github("v1"), project.on_github("v2")) == (first, second)


def test_run_again_it_changes_nothing(project: Project) -> None:
    project.tag("1.2.0")
    project.release("1.2.0")
    before = (project.releases(), project.on_github("v1"))
    log = project.release("1.2.0")
    assert "is there already" in log
    assert (project.releases(), project.on_github("v1")) == before


def test_a_run_that_was_killed_between_the_two_is_finished_by_the_next(project: Project) -> None:
    commit = project.tag("1.2.0")
    (project.folder / "releases.json").write_text('{"v1.2.0": {}}')
    project.release("1.2.0")
    assert project.on_github("v1") == commit


def test_a_major_tag_that_somebody_put_ahead_is_not_moved_back(project: Project) -> None:
    project.tag("1.2.0")
    (project.checkout / "more").touch()
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "Not released yet")
    project.git("push", "-q", "origin", "HEAD:refs/tags/v1")
    ahead = project.on_github("v1")
    project.git("checkout", "-q", "v1.2.0")
    done = project.run("publish", "v1.2.0")
    assert done.returncode == 2
    assert "::error title=release::v1 is ahead of v1.2.0" in done.stdout
    assert project.on_github("v1") == ahead


def test_of_two_that_move_the_major_tag_at_once_none_undoes_the_other(project: Project) -> None:
    """Between the look and the push the newer release moves the tag."""
    project.tag("1.2.0")
    project.release("1.2.0")
    project.tag("1.2.1")
    newest = project.tag("1.3.0")
    github = project.folder / "github"
    git = shutil.which("git")
    # the newer version's tag is not there yet at the first look; the push finds it, and v1 moved
    subprocess.run([git, "-C", github, "tag", "-d", "v1.3.0"], check=True, capture_output=True)
    there = f'"{git}" -C "{github}"'
    project.stand_in(
        "git",
        f"""#!/usr/bin/env bash
        case "$*" in
            *" push "*) {there} tag -f v1 {newest} >&2; {there} tag v1.3.0 {newest} ;;
        esac
        exec "{git}" "$@"
        """,
    )
    log = project.release("1.2.1")
    assert "v1 stays at v1.3.0" in log
    assert project.on_github("v1") == newest


def test_a_tag_that_moved_since_the_run_began_is_not_released(project: Project) -> None:
    project.tag("1.2.0")
    other = project.tag("1.2.1")
    project.git("push", "-q", "--force", "origin", f"{other}:refs/tags/v1.2.0")
    project.git("checkout", "-q", "v1.2.0")
    done = project.run("publish", "v1.2.0")
    assert done.returncode == 2
    assert "was moved meanwhile" in done.stdout
    assert project.releases() == {}


def test_when_gh_fails_the_major_tag_stays(project: Project) -> None:
    project.tag("1.2.0")
    project.stand_in("gh", "#!/usr/bin/env bash\necho 'HTTP 403: forbidden' >&2\nexit 1\n")
    done = project.run("publish", "v1.2.0")
    assert done.returncode == 2
    assert "::error title=release::gh release create failed.%0AHTTP 403: forbidden" in done.stdout
    assert project.on_github("v1") == ""


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("v1.3.0", "The tag says 1.3.0, pyproject.toml 1.2.0."),
        ("v1.2", "The tag v1.2 is no version: expected vX.Y.Z."),
        ("v1.2.0-rc1", "is no version"),
        ("v01.2.0", "is no version"),
        ("1.2.0", "is no version"),
    ],
)
def test_a_tag_that_does_not_fit_stops_everything(project: Project, tag: str, says: str) -> None:
    project.tag("1.2.0")
    for step in ("check", "publish"):
        done = project.run(step, tag)
        assert done.returncode == 2
        assert done.stdout.startswith("::error title=release::")
        assert says in done.stdout
    assert project.releases() == {}


@pytest.mark.parametrize(
    ("changelog", "says"),
    [
        (CHANGELOG.replace("[1.2.0] - 2026-02-02", "[1.1.0] - 2026-02-02"), "has no section"),
        (CHANGELOG.replace("[1.2.0] - 2026-02-02", "[1.2.0]"), "has no section"),
        (CHANGELOG.replace("\n- Two.\n", ""), "is empty"),
        (CHANGELOG.replace("1.2.0", "1x2.0"), "has no section"),
    ],
)
def test_a_version_without_notes_is_not_released(
    project: Project, changelog: str, says: str
) -> None:
    (project.checkout / "CHANGELOG.md").write_text(changelog)
    project.tag("1.2.0")
    done = project.run("check", "v1.2.0")
    assert done.returncode == 2
    assert says in done.stdout


def test_the_version_of_this_repository_could_be_tagged_or_says_what_is_missing() -> None:
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[0]
    done = subprocess.run(
        [sys.executable, SCRIPT, "check", f"v{version}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or f"the heading: ## [{version}] - YYYY-MM-DD" in done.stdout
