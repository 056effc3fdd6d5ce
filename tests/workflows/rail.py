"""Runs workflows by act, on this machine, in a copy of this repository (or in another one).

    runner = Runner(folder)
    repository = copy_of_trilho(folder / "credit", "octo/credit")
    run = runner.run(repository, "pull-request.yml", "pull_request", payload, secrets={…})
    assert run.results == {"model": "success"}

What GitHub does and act does not is done here in a copy of the files: `$/X` becomes
`OWNER/REPO/X@self`, and every third-party action is a stand-in from `actions/`. A run sees nothing
of this process's AWS, GitHub or Trilho settings.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "actions"
ACT = Path(sys.executable).with_name("act")
TIMEOUT = 600
USES = re.compile(r"^\s*(?:- )?uses:\s*['\"]?([^@\s'\"]+)@([^\s'\"]+)", re.MULTILINE)
SELF = re.compile(r"(uses:\s*['\"]?)\$/([^\s'\"]+)")
PRIVATE = (
    "ACTIONS_",
    "RUNNER_",
    "AWS_",
    "GITHUB_",
    "TRILHO_",
    "MLFLOW_",
    "VIRTUAL_ENV",
    "PYTHON",
    "CI",
    "GH_TOKEN",
    "COV_",
)
ANNOTATION = re.compile(r"::(error|warning|notice)(?: (.*?))?::(.*)", re.DOTALL)
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{f"GIT_{who}_NAME": "ana" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "ana@example.com" for who in ("AUTHOR", "COMMITTER")},
}


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub, as its name and a work tree."""

    path: Path
    name: str

    @classmethod
    def create(cls, path: Path, name: str) -> Repository:
        """Make a repository of the files that lie in a folder."""
        repository = cls(path, name)
        repository.git("init", "--quiet", "--initial-branch=main")
        repository.git("remote", "add", "origin", f"https://github.com/{name}")
        repository.commit("Start")
        return repository

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=os.environ | GIT,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        """Commit everything and return the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}")
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    @property
    def branch(self) -> str:
        return self.git("branch", "--show-current")

    def checkout(self, branch: str) -> None:
        """Go to a branch; a new one begins at main."""
        known = self.git("branch", "--list", branch)
        self.git("checkout", "--quiet", *([branch] if known else ["-b", branch, "main"]))

    def merge(self, branch: str) -> str:
        """Merge a branch into main, go there, and return the commit."""
        self.checkout("main")
        self.git("merge", "--quiet", "--no-ff", f"--message=Merge {branch}", branch)
        return self.head

    def write(self, path: str, text: str) -> None:
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).write_text(text, encoding="utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text that stands in a file exactly once."""
        text = (self.path / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} holds {old!r} {text.count(old)} times"
        self.write(path, text.replace(old, new))

    def payload(self) -> dict[str, Any]:
        """What every event says of the repository."""
        owner, _, name = self.name.partition("/")
        return {
            "full_name": self.name,
            "name": name,
            "owner": {"login": owner},
            "default_branch": "main",
            "html_url": f"https://github.com/{self.name}",
        }


def copy_of_trilho(path: Path, name: str) -> Repository:
    """Copy this repository's work tree as it stands, prepared for act, as the repository `name`."""
    copy_tree(path)
    prepare(path, name)
    return Repository.create(path, name)


def copy_tree(path: Path, leave_out: tuple[str, ...] = ("tests/", "docs/", "benchmarks/")) -> None:
    """Copy the files that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for file in listed.stdout.split("\0"):
        source = ROOT / file
        if file and not file.startswith(leave_out) and source.is_file():
            target = path / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def prepare(path: Path, name: str) -> None:
    """Rewrite in a copy of Trilho what act does not know, and what only GitHub's runners have."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for file in yaml_files(path):
        text = file.read_text(encoding="utf-8")
        text = SELF.sub(rf"\g<1>{name}/\g<2>@self", text)
        text = text.replace('default: "3.12"', f'default: "{here}"')  # the Python that is here
        # not from the network: where CML cannot be had, the report is posted without it
        text = text.replace("https://github.com/iterative/cml", "/no/cml")
        file.write_text(text, encoding="utf-8")


def copy_actions(path: Path, target: Path) -> None:
    """Copy what actions need of their repository; act copies that again for each step."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in (".github", "src", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        if (path / name).is_dir():
            shutil.copytree(path / name, target / name)
        elif (path / name).exists():
            shutil.copy(path / name, target / name)


def yaml_files(path: Path) -> list[Path]:
    """The workflows and actions of a repository."""
    return sorted(p for p in (path / ".github").rglob("*.y*ml") if p.is_file())


@dataclass(frozen=True)
class Annotation:
    level: str
    message: str
    file: str | None
    line: int | None
    title: str | None


@dataclass
class Run:
    """What came of a run. A job that was skipped is in none of the dictionaries."""

    id: int
    exit_code: int = 0
    seconds: float = 0.0
    results: dict[str, str] = field(default_factory=dict)  # by job id: success or failure
    # by job id and step id
    outputs: dict[str, dict[str, dict[str, str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    steps: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))  # by name
    times: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    summaries: dict[str, str] = field(default_factory=lambda: defaultdict(str))  # by job id
    annotations: list[Annotation] = field(default_factory=list)
    log: str = ""
    artifacts: dict[str, Path] = field(default_factory=dict)  # folders, by name

    def output(self, job: str, step: str, name: str) -> str:
        """An output of a step; empty, as in an expression, when it was not set."""
        return self.outputs.get(job, {}).get(step, {}).get(name, "")

    def expect(self, **results: str) -> None:
        """Fail with the log unless exactly these jobs ran, and ended so."""
        assert self.results == results, f"expected {results}, got {self!r}"

    def errors(self) -> list[Annotation]:
        return [a for a in self.annotations if a.level == "error"]

    def __repr__(self) -> str:
        steps = "\n".join(f"  {job}: {found}" for job, found in self.steps.items())
        tail = "\n".join(self.log.splitlines()[-60:])
        return f"<run {self.id}: {self.results}\n{steps}\n{tail}\n>"


class Runner:
    """A machine that runs jobs, one at a time, and keeps its environment from one to the next."""

    _ids = itertools.count(101)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: list[Repository] = []  # that workflows may call by `@v1`
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        repository: Repository,
        workflow: str,
        event: str,
        payload: Mapping[str, Any],
        *,
        secrets: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        actor: str = "ana",
    ) -> Run:
        """Run a workflow of a repository for an event, in its work tree as it stands.

        Parameters
        ----------
        repository, workflow
            Whose, and its file's name.
        event, payload
            The event's name and what GitHub would send; `repository` and `sender` are added.
        secrets, variables
            Of the repository; GITHUB_TOKEN is the job's token.
        environment
            What else stands in the environment of every step.
        actor
            Who started it.
        """
        run = Run(next(self._ids))
        event_file = self.folder / f"{run.id}.event.json"
        sender = {"login": actor}
        event_file.write_text(
            json.dumps({"repository": repository.payload(), "sender": sender, **payload})
        )
        options = [f"--env=GITHUB_RUN_ID={run.id}"]
        for name, value in (environment or {}).items():
            options.append(f"--env={name}={value}")
        for name, value in (variables or {}).items():
            options.append(f"--var={name}={value}")
        for name, value in (secrets or {}).items():
            options.append(f"--secret={name}={value}")
        for reference, path in self._local(repository).items():
            options.append(f"--local-repository={reference}={path}")
        command = [
            *(str(ACT), event, "--json", "--no-cache-server", "--concurrent-jobs=1"),
            *(f"--platform={name}=-self-hosted" for name in ("ubuntu-latest", "ubuntu-24.04-arm")),
            *("--directory", str(repository.path)),
            *("--workflows", f".github/workflows/{workflow}", "--eventpath", str(event_file)),
            *(f"--actor={actor}", f"--action-cache-path={self.folder / 'act'}"),
            *options,
        ]
        start = time.monotonic()
        with (self.folder / f"{run.id}.jsonl").open("w+", encoding="utf-8") as log:
            done = subprocess.run(
                command,
                cwd=repository.path,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=False,
            )
            log.seek(0)
            read(run, log)
        run.exit_code, run.seconds = done.returncode, time.monotonic() - start
        kept = self.folder / "artifacts" / str(run.id)
        run.artifacts = {p.name: p for p in kept.iterdir()} if kept.is_dir() else {}
        return run

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PRIVATE)}
        uv = _find_uv()
        own = str(Path(sys.executable).parent)  # the verbs must be those that `setup` puts on PATH
        paths = [p for p in inherited["PATH"].split(os.pathsep) if p != own]
        cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True)
        return (
            inherited
            | GIT
            | {
                "PATH": os.pathsep.join([str(Path(uv).parent), *paths]),
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
                "SETUP_CML_PAUSE": "0",
                "RAIL_KEPT": str(self.folder / "kept"),
                "RAIL_UV_CACHE": cache.stdout.strip(),
                "RAIL_CACHES": str(self.folder / "caches"),
                "RAIL_ARTIFACTS": str(self.folder / "artifacts"),
            }
        )

    def _local(self, repository: Repository) -> dict[str, Path]:
        """Where act finds each `owner/name@ref` that the workflows name."""
        repositories = [repository, *self.known]
        trees = {}
        for found in repositories:
            slim = self.folder / "self" / found.name
            copy_actions(found.path, slim)
            trees |= {f"{found.name}@{ref}": slim for ref in ("self", "v1")}
        for used, ref in _used(r.path for r in repositories):
            action = "/".join(used.split("/")[:2])
            if f"{action}@{ref}" not in trees and action != "actions/checkout":
                stand_in = STAND_INS / action.replace("/", "+")
                if stand_in.is_dir():
                    trees[f"{action}@{ref}"] = stand_in
        return trees


def read(run: Run, lines: Iterable[str]) -> None:
    """Fill a run with what act's JSON lines say."""
    log: list[str] = []
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            log.append(line.rstrip())
            continue
        job, ids, message = said.get("jobID"), said.get("stepID", []), said.get("msg", "")
        log.append(f"{job or ''} {message.rstrip()}")
        command = said.get("command")
        if "jobResult" in said:
            run.results[job] = said["jobResult"]
        elif found := ANNOTATION.match(said.get("raw", "")):
            # read here, because act stumbles over a message that holds `::`
            level, given, text = found.groups(default="")
            where = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
            run.annotations.append(
                Annotation(
                    level,
                    unescaped(text.rstrip()),
                    unescaped(where["file"]) if "file" in where else None,
                    int(where["line"]) if "line" in where else None,
                    unescaped(where["title"]) if "title" in where else None,
                )
            )
        elif len(ids) != 1 or said.get("stage") != "Main":
            continue  # of a step inside an action, which the action's own step repeats
        elif command == "set-output":
            run.outputs[job][ids[0]][said["name"]] = said["arg"]
        elif command == "summary":
            run.summaries[job] += said["content"]
        elif "stepResult" in said:
            run.steps[job][said["step"]] = said["stepResult"]
            run.times[job][said["step"]] = said.get("executionTime", 0) / 1e9
    run.log = "\n".join(log)


def unescaped(text: str) -> str:
    """A workflow command's text as GitHub shows it."""
    for code, sign in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, sign)
    return text


def _used(paths: Iterable[Path]) -> set[tuple[str, str]]:
    return {
        found
        for path in paths
        for file in yaml_files(path)
        for found in USES.findall(file.read_text())
    }


def _find_uv() -> str:
    """uv, wherever `scripts/setup` would take it from."""
    for place in (shutil.which("uv"), Path.home() / ".local/bin/uv", ROOT / ".trilho/uv/bin/uv"):
        if place and Path(place).is_file():
            return str(place)
    raise RuntimeError("uv is not installed; `make setup` fetches it")
