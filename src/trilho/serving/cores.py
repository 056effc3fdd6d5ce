"""How many cores this container may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available(root: Path = CGROUP) -> int:
    """Return the cores that the container's control group grants, at least one.

    A quota of one and a half cores counts as two: two workers use it up, one cannot.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(root)
    return max(1, min(cores or 1, math.ceil(quota) if quota else cores or 1))


def _quota(root: Path) -> float | None:
    """Return the processor time per time of cgroup v2 or v1, None without a limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        micros = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return micros / int((root / "cpu/cpu.cfs_period_us").read_text()) if micros > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
