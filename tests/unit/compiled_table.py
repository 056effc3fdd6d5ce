"""Write docs/compiled.md: what is compiled, and how far it was seen from scikit-learn.

`python -m tests.unit.compiled_table` measures anew. The rows of a package that is not installed
keep the figures that they have.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # as pytest does

import compiled_boosters
import numpy as np
import pandas as pd
from compiled_cases import Case, cases
from compiled_models import agree, prove, signature_of, table, target, wild
from compiled_refusals import refusals

from trilho.bundle import Signature
from trilho.training import compile as compiling
from trilho.training import proof
from trilho.training.columns import from_frame

DOCUMENT = Path(__file__).parents[2] / "docs" / "compiled.md"
START, END = "<!-- rows: written by tests/unit/compiled_table.py -->", "<!-- end of rows -->"


def measure(case: Case, task: str, folder: Path) -> float:
    """Return the largest difference between a case and its compiled form, on all kinds of rows."""
    frame = table(160)
    y = target(frame, task)
    if ":" in case.setting:  # an objective of XGBoost for positive numbers
        y = np.exp(y / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = case.make(task)
        largest, form = prove(model, frame, task, folder, y=y)
        found = agree(model, form, wild(table(24, seed=5)), signature_of(frame, task))
    assert found.both_answer, "it refused all rows"
    assert not found.only_form_refuses
    return max(largest, found.largest)


def prove_on(model: Any, form: Any, frame: pd.DataFrame, signature: Signature) -> float:
    """The proof over rows of one's own."""
    columns = from_frame(frame, signature)
    return proof.prove(model, form, frame, columns, signature, signature.threshold)[0]


def rules() -> set[str]:
    """Names of the classes that have a rule; those of other packages with the package's name."""
    for module in compiling.MODULES:
        importlib.import_module(f"trilho.training.rules_{module}")
    registered = {*compiling.RULES, *compiling.SCORE_RULES}
    return {
        kind.__name__ if isinstance(kind, type) else ".".join(kind.split(".")[::2])
        for kind in registered
    }


def expected_rows() -> set[str]:
    return rules() | {_label(case) for case in refusals()}


def _label(case: Case) -> str:
    return f"{case.name}: {case.setting}" if case.setting else case.name


def documented_rows() -> dict[str, str]:
    """The rows of the document, by what stands first in them."""
    text = DOCUMENT.read_text("utf-8")
    lines = text.partition(START)[2].partition(END)[0].splitlines()
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def _rows() -> Iterator[str]:
    before = documented_rows()
    found: dict[str, list[Case]] = {name: [] for name in sorted(rules(), key=str.lower)}
    for case in cases():
        found[case.name].append(case)
    for package in compiled_boosters.PACKAGES:
        if importlib.util.find_spec(package):
            for case in compiled_boosters.cases(package):
                if case.reason is None:
                    found[case.name].append(case)
    yield "| class | tried | outcome | largest difference |"
    yield "|---|---|---|---:|"
    for name, tried in found.items():
        if not tried:
            yield before.get(name) or f"| `{name}` | | needs its package | not measured |"
            continue
        settings = "; ".join(dict.fromkeys(case.setting for case in tried if case.setting))
        with tempfile.TemporaryDirectory() as folder:
            largest = max(measure(c, task, Path(folder)) for c in tried for task in c.tasks)
        print(name, largest, file=sys.stderr)
        yield f"| `{name}` | {settings} | exact | {largest:.1e} |"
    yield ""
    yield "| setting or class | outcome | because |"
    yield "|---|---|---|"
    for case in refusals():
        with tempfile.TemporaryDirectory() as folder:
            try:
                measure(case, case.tasks[0], Path(folder))
            except compiling.CompileRefused as refused:
                yield f"| `{_label(case)}` | refused | {refused} |"


def write() -> None:
    text = DOCUMENT.read_text("utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    body = "\n".join(_rows())
    DOCUMENT.write_text(f"{head}{START}\n\n{body}\n\n{END}{tail}", "utf-8")


if __name__ == "__main__":
    write()
