"""Load by wrk on a core of its own, and what the server's processes took meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SCRIPT = Path(__file__).with_name("post.lua")
TICKS = os.sysconf("SC_CLK_TCK")


@cache
def cores() -> tuple[set[int], set[int]]:
    """Return the server's core and the rest, which is the load generator's.

    A server and its load on the same core would each measure the other.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        return {allowed[0]}, {allowed[0]}
    return {allowed[0]}, set(allowed[1:])


@dataclass(frozen=True)
class Load:
    """One run of the load generator.

    Attributes
    ----------
    rate
        Answers a second.
    p50, p99
        Milliseconds.
    cpu
        Processor milliseconds of the server for each answer: what other load on the machine
        changes least.
    busy
        Share of its core that the server used. Near 1: the server was the bottleneck, not wrk.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    busy: float


def load(pid: int, url: str, body: Path, connections: int, seconds: int) -> Load:
    """Ask `url` as fast as it answers.

    Raises
    ------
    RuntimeError
        wrk is not installed, or an answer was not a good one.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("wrk is not installed: apt-get install wrk")
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    used, start = processor(pid), time.perf_counter()
    done = subprocess.run(
        [*command, "-s", str(SCRIPT), url],
        env=os.environ | {"BODY": str(body)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores()[1]),
    )
    used, wall = processor(pid) - used, time.perf_counter() - start
    line = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    if line is None:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    found = json.loads(line)
    if found["bad"] or not found["requests"]:
        raise RuntimeError(f"{found['bad']} of {found['requests']} answers were not good: {url}")
    return Load(
        rate=found["requests"] / found["seconds"],
        p50=found["p50"],
        p99=found["p99"],
        cpu=used * 1000 / found["requests"],
        busy=used / wall,
    )


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def processor(pid: int) -> float:
    """Return the seconds of processor time of a process's tree, with children that have ended."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def memory(pid: int) -> float:
    """Return the megabytes of a process's tree, pages that several share counted once."""
    total = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6
