"""The few commands of uv that the environment is made with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runner import Problem, SetupError, failed


@dataclass(frozen=True)
class Uv:
    """uv, working on one virtual environment with a cache of its own.

    It runs outside of the caller's project, so that no configuration there (overrides, another
    version of uv) changes what the lock says; only what installs the caller's file runs inside.
    """

    environment: Path
    cache: Path
    project: Path

    def make(self, python: str) -> None:
        """Make the virtual environment anew."""
        result = self._run(
            "venv", "--no-project", "--clear", "--python", python, str(self.environment)
        )
        if result.returncode:
            raise failed(f"Python {python} cannot be had on this runner.", _reason(result))

    def sync(self, lock: Path) -> None:
        """Make the environment hold what the lock names, and nothing else; only wheels, by hash."""
        result = self._pip("sync", "--require-hashes", "--no-build", str(lock))
        if result.returncode:
            raise failed(f"The lock {lock} cannot be installed.", _reason(result))

    def install_trilho(self, root: Path) -> None:
        """Install Trilho from its source.

        Offline: uv itself is the build backend, and nothing without a hash is fetched instead.
        """
        result = self._pip("install", "--offline", "--no-deps", str(root))
        if result.returncode:
            raise failed(f"Trilho cannot be installed from {root}.", _reason(result))

    def keep_compiled(self, folder: Path) -> None:
        """Let the environment's Python keep compiled modules in another folder."""
        line = f"import sys; sys.pycache_prefix = {str(folder)!r}\n"
        (self.site_packages() / "trilho_pycache.pth").write_text(line, encoding="utf-8")

    def forget_compiled(self, folder: Path, package: str) -> None:
        """Drop what was compiled of a package whose version does not tell one state from another.

        Python tells them by size and second, which an earlier step of the same job may share.
        """
        place = self.site_packages() / package
        shutil.rmtree(folder / place.relative_to(place.anchor), ignore_errors=True)

    def run_python(self, code: str) -> None:
        """Run code in the environment; what it says and how it ends does not matter."""
        python = self.environment / "bin" / "python"
        subprocess.run([python, "-I", "-c", code], capture_output=True, check=False)  # noqa: S603

    def try_install(
        self,
        requirements: Path,
        *,
        constraints: Path | None = None,
        overrides: Path | None = None,
        dry: bool = False,
    ) -> str | None:
        """Install a file of requirements; return what uv says against it."""
        options = ["--requirements", str(requirements)]
        options += ["--constraints", str(constraints)] if constraints else []
        options += ["--overrides", str(overrides)] if overrides else []
        options += ["--dry-run"] if dry else []
        result = self._pip("install", *options, folder=self.project)
        return _reason(result) if result.returncode else None

    def freeze(self) -> str:
        """Return what is installed, as pins."""
        result = self._pip("freeze", "--exclude", "trilho")
        return result.stdout

    def check(self) -> list[str]:
        """Return what uv finds wrong between the packages that are installed."""
        return self._pip("check").stderr.splitlines()

    def site_packages(self) -> Path:
        """Return the folder that the environment's packages stand in."""
        return next(self.environment.glob("lib/python3*/site-packages"))

    def _pip(
        self, command: str, *options: str, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        python = str(self.environment / "bin" / "python")
        return self._run("pip", command, "--python", python, *options, folder=folder)

    def _run(self, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        program = os.environ.get("UV") or shutil.which("uv")
        if program is None:
            raise SetupError([Problem("uv is not on PATH.")])
        return subprocess.run(  # noqa: S603 - a list of arguments, no shell
            [program, *command],
            cwd=folder or self.environment.parent,
            env={**os.environ, "UV_CACHE_DIR": str(self.cache), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


def _reason(result: subprocess.CompletedProcess[str]) -> str:
    """Return what uv says against it."""
    return re.sub(r"^Using Python .*\n", "", result.stderr).strip()
