"""Time whole processes, a claim and its peer in turn: a noisy machine then hurts both alike."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
TRILHO = str(Path(sys.executable).parent / "trilho")

# Trilho sets this by itself; given to the peers too, so that what differs is the work.
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
# Compiled modules are kept, as on any machine: the uncounted round writes them.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | PASSIVE


@dataclass(frozen=True)
class Usage:
    """What one process took; `peak` is its largest resident set in megabytes."""

    seconds: float
    peak: float


def run(command: Sequence[str], cwd: Path, done: tuple[int, ...] = (0,)) -> Usage:
    """Run a command to its end and account for it; `done` are the exit codes of a good end.

    Raises
    ------
    RuntimeError
        With the command's output, when it fails.
    """
    with open(cwd / "benchmark.log", "wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in done:
        raise RuntimeError(f"{' '.join(command)}\n{(cwd / 'benchmark.log').read_text()}")
    scale = 1024 * 1024 if sys.platform == "darwin" else 1024
    return Usage(seconds, usage.ru_maxrss / scale)


def in_turn(
    claim: Callable[[], Usage], peer: Callable[[], Usage], rounds: int
) -> tuple[Usage, Usage]:
    """Run both in turn after one uncounted round; return the median of each."""
    pairs = [(claim(), peer()) for _ in range(rounds + 1)][1:]
    return _median([a for a, _ in pairs]), _median([b for _, b in pairs])


def _median(usages: list[Usage]) -> Usage:
    return Usage(
        statistics.median(u.seconds for u in usages), statistics.median(u.peak for u in usages)
    )


@dataclass(frozen=True)
class Row:
    """One claim: what, both figures, the ratio, and the bound that it must keep."""

    claim: str
    ours: str
    peer: str
    ratio: float
    bound: float
    at_least: bool = False  # the ratio must reach the bound instead of staying below it

    @property
    def kept(self) -> bool:
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound

    def markdown(self) -> str:
        sign = "≥" if self.at_least else "≤"
        mark = "yes" if self.kept else "**no**"
        return (
            f"| {self.claim} | {self.ours} | {self.peer} | {self.ratio:.2f} "
            f"| {sign} {self.bound:g} | {mark} |"
        )


def table(title: str, command: str, note: str, rows: list[Row]) -> str:
    """Return a section of RESULTS.md."""
    lines = [f"## {title}", "", f"`{command}`", "", note, ""]
    lines += ["| claim | trilho | peer | ratio | bound | kept |", "|---|---:|---:|---:|---:|---|"]
    return "\n".join(lines + [row.markdown() for row in rows]) + "\n"


def machine() -> str:
    """Say on what the figures were measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}"
    )
