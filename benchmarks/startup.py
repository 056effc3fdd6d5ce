"""`trilho --help` beside an interpreter that imports the libraries that it must not import."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import PYTHON, TRILHO, Row, in_turn, run, table


def main() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, peer = in_turn(
            lambda: run([TRILHO, "--help"], folder),
            lambda: run([PYTHON, "-c", "import pandas, sklearn.pipeline"], folder),
            9,
        )
    row = Row(
        "`trilho --help`",
        f"{ours.seconds * 1000:.0f} ms",
        f"{peer.seconds * 1000:.0f} ms",
        ours.seconds / peer.seconds,
        0.5,
    )
    return table(
        "Start of the command line",
        "python -m benchmarks startup",
        "Peer: `import pandas, sklearn.pipeline` and nothing else.",
        [row],
    )
