"""What a step of a workflow left for GitHub Actions."""

from __future__ import annotations

import re
from pathlib import Path


def outputs(file: Path) -> dict[str, str]:
    """The outputs in a GITHUB_OUTPUT file, the last of each name."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.findall(r"^([\w-]+)<<(\S+)\n(.*?)\n\2$", text, re.M | re.S)
    return {name: value for name, _, value in found}
