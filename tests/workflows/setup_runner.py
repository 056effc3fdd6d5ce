"""A runner for the action `setup`: its own files, beside a small Trilho that the test makes.

The index is a folder of wheels: nothing here needs a network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ACTION = Path(".github", "actions", "setup")
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PLACES = ("uv", Path.home() / ".local/bin/uv", REPOSITORY / ".trilho/uv/bin/uv")  # of scripts/setup
UV = next(filter(None, map(shutil.which, PLACES)), None)


@dataclass
class Result:
    """How a step ended and what it told the runner."""

    code: int
    log: str
    outputs: dict[str, str]
    exported: dict[str, str]
    paths: list[str]

    @property
    def annotations(self) -> list[str]:
        return [line for line in self.log.splitlines() if line.startswith("::")]


@dataclass
class Runner:
    """A runner with a checkout, and Trilho's repository where the runner keeps actions."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def trilho(self) -> Path:
        return self.folder / "_actions" / "owner" / "trilho" / "v1"

    @property
    def checkout(self) -> Path:
        return self.folder / "work" / "repository"

    @property
    def wheels(self) -> Path:
        return self.folder / "wheels"

    @property
    def home(self) -> Path:
        return self.folder / "temp" / "trilho"

    def setup(self, *steps: str, **inputs: str) -> Result:
        """Run the action's steps, or some, as action.yml does; inputs by their names with `_`."""
        for step in steps or ("plan", "install"):
            result = self._step(step, inputs)
            if result.code:
                break
        return result

    def python(self, code: str) -> str:
        python = self.home / "venv" / "bin" / "python"
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        done = subprocess.run(
            [python, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def installed(self) -> set[str]:
        """Name everything in the environment, as `name==version`."""
        code = "from importlib.metadata import distributions as d\n"
        return set(self.python(code + "for x in d(): print(f'{x.name}=={x.version}')").split())

    def _step(self, step: str, inputs: dict[str, str]) -> Result:
        files = {name: self.folder / name for name in ("output", "env", "path")}
        for file in files.values():
            file.write_text("")
        defaults = {"python_version": PYTHON, "source": "src", "working_directory": "."}
        base = Path(sys.base_prefix, "bin")
        environment = {
            "PATH": f"{base}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "UV": str(UV),
            "UV_FIND_LINKS": str(self.wheels),
            "UV_OFFLINE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "NO_PROXY": "127.0.0.1",
            "GITHUB_WORKSPACE": str(self.checkout),
            "GITHUB_ACTION_PATH": str(self.trilho / ACTION),
            "RUNNER_TEMP": str(self.home.parent),
            "RUNNER_OS": "Linux",
            "RUNNER_ARCH": "X64",
            **{f"GITHUB_{name.upper()}": str(file) for name, file in files.items()},
            **{f"SETUP_{k.upper()}": v for k, v in {**defaults, **inputs}.items()},
            **self.environment,
        }
        done = subprocess.run(
            [sys.executable, "-E", self.trilho / ACTION / "install.py", step],
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Result(
            done.returncode,
            done.stdout + done.stderr,
            read_file_commands(files["output"]),
            read_file_commands(files["env"]),
            files["path"].read_text().splitlines(),
        )


def read_file_commands(path: Path) -> dict[str, str]:
    """Read GITHUB_OUTPUT or GITHUB_ENV as the runner does."""
    found = re.findall(
        r"^(\w[\w-]*)<<(\w+)\n(.*?)\n\2$", path.read_text(), re.DOTALL | re.MULTILINE
    )
    return {name: value for name, _, value in found}


def make_trilho(root: Path, lock: str, says: str) -> None:
    """Write what the action needs of Trilho's repository."""
    shutil.copytree(
        REPOSITORY / ACTION, root / ACTION, ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "src" / "trilho").mkdir(parents=True)
    (root / "src" / "trilho" / "__init__.py").write_text(f"def main(): print({says!r})\n")
    shutil.copy(REPOSITORY / "LICENSE", root)
    (root / "README.md").write_text("Trilho\n")
    (root / "requirements.txt").write_text(lock)
    project = (REPOSITORY / "pyproject.toml").read_text().replace("trilho.cli:main", "trilho:main")
    no_dependencies = re.sub(r"^dependencies = \[.*?^\]", "", project, flags=re.S | re.M)
    (root / "pyproject.toml").write_text(no_dependencies)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A package index: the lists of files that the standard library's server makes are enough."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
