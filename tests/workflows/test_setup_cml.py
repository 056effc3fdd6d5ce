"""The action `setup-cml`: one commit, checked, whole or not at all, and no secret near it.

A small repository stands for CML, a recorder for npm where npm itself is not the point.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".github" / "actions" / "setup-cml" / "setup-cml.sh"
PROGRAM = """
if (process.argv[2] === "--version") console.log("0.0.1");
const track = process.env.ITERATIVE_DO_NOT_TRACK;
if (process.argv[2] !== "--version") console.log(JSON.stringify([process.argv.slice(2), track]));
"""

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="Node.js is not installed"
)


@dataclass
class Result:
    code: int
    log: str
    path: str

    @property
    def annotations(self) -> list[str]:
        return [line for line in self.log.splitlines() if line.startswith("::")]


@dataclass
class Runner:
    folder: Path
    repository: Path
    commit: str

    @property
    def programs(self) -> Path:
        """Programs that are found before those of the machine."""
        return self.folder / "programs"

    @property
    def made(self) -> Path:
        return self.folder / "temp" / "trilho-cml" / self.commit

    @property
    def cml(self) -> Path:
        return self.folder / "temp" / "trilho-cml" / "bin" / "cml"

    def run(self, step: str, **environment: str) -> Result:
        path = self.folder / "path"
        path.write_text("")
        output = self.folder / "output"
        output.write_text("")
        done = subprocess.run(
            [SCRIPT, step],
            env={
                **os.environ,
                "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
                "RUNNER_TEMP": str(self.folder / "temp"),
                "GITHUB_PATH": str(path),
                "GITHUB_OUTPUT": str(output),
                "SETUP_CML_REPOSITORY": str(self.repository),
                "SETUP_CML_COMMIT": self.commit,
                "SETUP_CML_PAUSE": "0",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return Result(done.returncode, done.stdout + done.stderr, path.read_text().strip())

    def outputs(self) -> dict[str, str]:
        assert self.run("plan").code == 0
        lines = (self.folder / "output").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def stand_in(self, program: str, script: str) -> None:
        """Put a shell script before a program of the machine."""
        path = self.programs / program
        path.write_text(f"#!/usr/bin/env bash\n{script}")
        path.chmod(0o755)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit_cml(repository: Path, program: str = PROGRAM) -> str:
    """Commit what looks like CML: a program and an npm package of no dependencies."""
    package = {"name": "small", "version": "0.0.1", "scripts": {"prepare": "touch ran-a-script"}}
    lock = {**package, "lockfileVersion": 3, "packages": {"": {"name": "small"}}}
    lock.pop("scripts")
    (repository / "bin").mkdir(parents=True, exist_ok=True)
    (repository / "bin" / "cml.js").write_text(program)
    (repository / "package.json").write_text(json.dumps(package))
    (repository / "package-lock.json").write_text(json.dumps(lock))
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "Small")
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    (tmp_path / "programs").mkdir()
    (tmp_path / "temp").mkdir()
    return Runner(tmp_path, repository, commit_cml(repository))


@needs_node
def test_cml_of_that_commit_is_on_path_with_telemetry_off(runner: Runner) -> None:
    pinned = runner.commit
    commit_cml(runner.repository, program="console.log('the newest')")
    result = runner.run("install")
    assert result.code == 0, result.log
    assert result.path == str(runner.cml.parent)
    assert f"CML 0.0.1 at {pinned}" in result.log
    environment = {**os.environ, "ITERATIVE_DO_NOT_TRACK": "0"}
    said = subprocess.check_output([runner.cml, "comment", "a b"], env=environment, text=True)
    assert json.loads(said) == [["comment", "a b"], "1"]


@needs_node
def test_no_package_runs_a_script(runner: Runner) -> None:
    assert runner.run("install").code == 0
    assert not list(runner.folder.glob("**/ran-a-script"))


def test_npm_is_asked_for_the_lock_alone_and_sees_no_secret(runner: Runner) -> None:
    runner.stand_in(
        "npm", f'echo "$*" > {runner.folder}/asked; env > {runner.folder}/environment\n'
    )
    runner.stand_in("node", "echo 0.0.1\n")
    secrets = {
        "GITHUB_TOKEN": "s3cr3t-1",
        "REPO_TOKEN": "s3cr3t-2",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t-3",
        "AWS_ACCESS_KEY_ID": "s3cr3t-4",
        "ACTIONS_RUNTIME_TOKEN": "s3cr3t-5",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "s3cr3t-6",
        "my_password": "s3cr3t-7",
    }
    result = runner.run("install", KEPT="yes", **secrets)
    assert result.code == 0, result.log
    asked = (runner.folder / "asked").read_text().split()
    assert asked[:3] == ["ci", "--omit=dev", "--ignore-scripts"]
    environment = (runner.folder / "environment").read_text()
    assert "KEPT=yes" in environment
    assert "s3cr3t" not in environment


@needs_node
def test_the_second_time_nothing_is_fetched(runner: Runner) -> None:
    assert runner.run("install").code == 0
    shutil.rmtree(runner.repository)
    runner.stand_in("npm", "exit 1\n")
    result = runner.run("install")
    assert result.code == 0, result.log


@needs_node
def test_a_cache_that_holds_something_else_is_replaced(runner: Runner) -> None:
    pinned = runner.commit
    runner.commit = commit_cml(runner.repository, program="console.log('not it')")
    assert runner.run("install").code == 0
    held = runner.made
    runner.commit = pinned
    held.rename(runner.made)
    assert runner.run("install").code == 0
    assert (runner.made / "bin" / "cml.js").read_text() == PROGRAM


@needs_node
def test_a_cache_that_does_not_start_is_replaced(runner: Runner) -> None:
    assert runner.run("install").code == 0
    (runner.made / "bin" / "cml.js").unlink()
    assert runner.run("install").code == 0
    assert (runner.made / "bin" / "cml.js").read_text() == PROGRAM


def test_where_it_stands_is_known_before_the_cache_is_restored(runner: Runner) -> None:
    outputs = runner.outputs()
    assert outputs["path"] == str(runner.cml)
    assert outputs["folder"] == str(runner.made)
    assert outputs["cache-key"].endswith(runner.commit)


def test_a_network_that_fails_once_is_asked_again(runner: Runner) -> None:
    runner.stand_in("node", "echo 0.0.1\n")
    counter = runner.folder / "attempts"
    runner.stand_in("npm", f"echo x >> {counter}; [ $(wc -l < {counter}) -ge 3 ]\n")
    result = runner.run("install")
    assert result.code == 0, result.log
    assert counter.read_text().split() == ["x"] * 3


def test_it_gives_up_with_a_warning_and_leaves_nothing_half_made(runner: Runner) -> None:
    runner.stand_in("node", "echo 0.0.1\n")
    counter = runner.folder / "attempts"
    runner.stand_in("npm", f"echo x >> {counter}; exit 1\n")
    result = runner.run("install")
    assert result.code == 7
    assert counter.read_text().split() == ["x"] * 3
    [shown] = result.annotations
    assert shown.startswith("::warning title=setup-cml::The packages of CML cannot be installed")
    assert (result.path, runner.made.exists(), runner.cml.exists()) == ("", False, False)


def test_a_commit_that_is_not_there(runner: Runner) -> None:
    runner.commit = "0" * 40
    result = runner.run("install")
    assert result.code == 7
    assert f"Commit {'0' * 40} of CML cannot be fetched from" in result.annotations[0]


def test_another_commit_than_the_one_asked_for_is_refused(runner: Runner) -> None:
    other = commit_cml(runner.repository, program="console.log('other')")
    real = shutil.which("git")
    runner.stand_in("git", f'args=("${{@/{runner.commit}/{other}}}")\nexec {real} "${{args[@]}}"\n')
    runner.stand_in("npm", "exit 0\n")
    runner.stand_in("node", "echo 0.0.1\n")
    result = runner.run("install")
    assert result.code == 1
    assert f"gave commit {other} instead of {runner.commit}" in result.annotations[0]
    assert not runner.made.exists()


def test_a_repository_that_is_not_cml(runner: Runner) -> None:
    git(runner.repository, "rm", "-q", "package-lock.json")
    git(runner.repository, "commit", "-q", "-m", "No lock")
    runner.commit = git(runner.repository, "rev-parse", "HEAD")
    result = runner.run("install")
    assert result.code == 2
    assert "is not CML: no package-lock.json" in result.annotations[0]


def test_a_runner_without_node(runner: Runner) -> None:
    for program in ("bash", "env", "git"):
        (runner.programs / program).symlink_to(shutil.which(program) or "")
    result = runner.run("install", PATH=str(runner.programs))
    assert result.code == 7
    assert "CML needs node, which is not on PATH." in result.annotations[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SETUP_CML_COMMIT", ""),
        ("SETUP_CML_COMMIT", "main"),
        ("SETUP_CML_COMMIT", "a3a66c7"),
        ("SETUP_CML_COMMIT", "../" + "a" * 37),
        ("SETUP_CML_REPOSITORY", ""),
        ("SETUP_CML_REPOSITORY", "--upload-pack=touch /tmp/x"),
        ("SETUP_CML_REPOSITORY", "ext::sh -c touch"),
        ("SETUP_CML_REPOSITORY", "x\n::set-output name=a::b"),
    ],
)
def test_wrong_inputs_are_one_error_and_touch_nothing(
    runner: Runner, name: str, value: str
) -> None:
    for step in ("plan", "install"):
        result = runner.run(step, **{name: value})
        assert result.code == 2
        assert len(result.annotations) == 1
        assert result.annotations[0].startswith("::error title=setup-cml::")
    assert not list((runner.folder / "temp").iterdir())
