#!/usr/bin/env python3
"""Release what a tag names: check it, publish its notes, move the major tag.

    scripts/release.py check v1.2.3      the tag, pyproject.toml and CHANGELOG.md agree
    scripts/release.py publish v1.2.3    the GitHub release, then the tag v1 (safe to repeat)

`publish` needs git, gh (with GH_TOKEN) and a checkout with the whole history. Everything that can
fail without harm comes first; what people point at, the major tag, moves last and only forward.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ATTEMPTS = 3  # to move the major tag while somebody else moves it
# The token stays in gh's hands: no file, no address, no list of processes shows it.
BY_GH = ("-c", "credential.helper=", "-c", "credential.helper=!gh auth git-credential")


class ReleaseError(Exception):
    """What stands in the way of the release, and what to do about it."""


class Version(NamedTuple):
    """Three numbers that compare as versions do."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


class Tag(NamedTuple):
    """A tag on GitHub: the object that it is, and the commit that it names."""

    object: str
    commit: str


def main(arguments: list[str]) -> int:
    """Run a step; an error becomes an annotation."""
    try:
        step, tag = arguments
        version = checked(tag)
        if step == "publish":
            publish(tag, version)
    except ReleaseError as error:
        print(f"::error title=release::{str(error).replace(chr(10), '%0A')}")
        return 2
    return 0


def checked(tag: str) -> Version:
    """Return the version that a tag names, if the repository says the same."""
    version = parse(tag)
    if version is None:
        raise ReleaseError(f"The tag {tag} is no version: expected vX.Y.Z.")
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    if project["version"] != str(version):
        raise ReleaseError(
            f"The tag says {version}, pyproject.toml {project['version']}. "
            "Set the version there, then tag that commit."
        )
    notes(Path("CHANGELOG.md").read_text(encoding="utf-8"), version)
    return version


def parse(tag: str) -> Version | None:
    """Return the version in `vX.Y.Z`, None for anything else."""
    number = r"(0|[1-9]\d*)"
    match = re.fullmatch(rf"v{number}\.{number}\.{number}", tag)
    return Version(*map(int, match.groups())) if match else None


def notes(changelog: str, version: Version) -> str:
    """Return what the changelog says of a version."""
    heading = rf"^## \[{re.escape(str(version))}\] - \d{{4}}-\d{{2}}-\d{{2}}\n"
    match = re.search(rf"{heading}(.*?)(?=^## |^\[[^\]]+\]: |\Z)", changelog, re.M | re.S)
    if match is None:
        raise ReleaseError(
            f"CHANGELOG.md has no section for {version}. "
            f"Give the entries under [Unreleased] the heading: ## [{version}] - YYYY-MM-DD"
        )
    if not match[1].strip():
        raise ReleaseError(f"The section of CHANGELOG.md for {version} is empty.")
    return match[1].strip() + "\n"


def publish(tag: str, version: Version) -> None:
    """Make the release unless it is there, then move the major tag unless a newer one has it."""
    commit = run("git", "rev-parse", f"{tag}^{{commit}}")
    tags = remote_tags()
    if tag not in tags or tags[tag].commit != commit:
        raise ReleaseError(f"The tag {tag} was moved meanwhile, or is not in the repository.")
    create_release(tag, version, is_latest=version == newest(tags))
    for _ in range(ATTEMPTS):
        if move_major(f"v{version.major}", version, commit):
            return
    raise ReleaseError(f"Somebody else moves the tag v{version.major} all the time: run again.")


def create_release(tag: str, version: Version, *, is_latest: bool) -> None:
    """Make the GitHub release; one that is there is left as it is."""
    if attempt("gh", "release", "view", tag).returncode == 0:
        print(f"The release {tag} is there already.")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".md", encoding="utf-8") as file:
        file.write(notes(Path("CHANGELOG.md").read_text(encoding="utf-8"), version))
        file.flush()
        latest = f"--latest={'true' if is_latest else 'false'}"
        options = ("--verify-tag", "--title", tag, latest, "--notes-file", file.name)
        run("gh", "release", "create", tag, *options)
    print(f"Released {tag}.")


def move_major(major: str, version: Version, commit: str) -> bool:
    """Move the major tag to the commit; return False when somebody else moved it meanwhile."""
    tags = remote_tags()
    ahead = newest(tags, version.major)
    if ahead != version:
        print(f"{major} stays at v{ahead}, which is newer than v{version}.")
        return True
    now = tags.get(major)
    if now and now.commit == commit:
        print(f"{major} is at v{version} already.")
        return True
    if now and attempt("git", "merge-base", "--is-ancestor", commit, now.commit).returncode == 0:
        raise ReleaseError(
            f"{major} is ahead of v{version}, at {now.commit}: it moves forward only."
        )
    # Taken only if it is still what was just read: of two releases at once none undoes the other.
    lease = f"--force-with-lease=refs/tags/{major}:{now.object if now else ''}"
    done = attempt("git", *BY_GH, "push", "--quiet", lease, "origin", f"{commit}:refs/tags/{major}")
    if done.returncode and "stale info" not in done.stderr:
        raise ReleaseError(f"{major} cannot be moved.\n{done.stderr.strip()}")
    if done.returncode == 0:
        print(f"{major} is at v{version} now.")
    return done.returncode == 0


def newest(tags: Iterable[str], major: int | None = None) -> Version:
    """Return the highest version among the tags, of one major version if given."""
    versions = [version for version in map(parse, tags) if version]
    return max(version for version in versions if major is None or version.major == major)


def remote_tags() -> dict[str, Tag]:
    """Return the tags of the repository on GitHub."""
    tags: dict[str, Tag] = {}
    for line in run("git", "ls-remote", "--tags", "origin").splitlines():
        found, reference = line.split("\t")
        name = reference.removeprefix("refs/tags/")
        if name.endswith("^{}"):  # follows an annotated tag, with the commit that it names
            name = name.removesuffix("^{}")
            tags[name] = Tag(tags[name].object, found)
        else:
            tags[name] = Tag(found, found)
    return tags


def run(*command: str) -> str:
    """Run a program and return what it says."""
    done = attempt(*command)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[:3])} failed.\n{done.stderr.strip()}")
    return done.stdout.strip()


def attempt(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program; how it ended is for the caller to judge."""
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
