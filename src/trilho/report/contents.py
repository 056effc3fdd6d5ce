"""What the report says, in the order in which a reviewer decides."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from trilho.report import quality
from trilho.report.document import (
    Bar,
    Block,
    Cell,
    Command,
    Document,
    Folded,
    Headline,
    Mark,
    Name,
    Paragraph,
    Section,
    Table,
    Tile,
)
from trilho.report.inputs import ReportInputs
from trilho.report.text import (
    NOTHING,
    counted,
    decimals,
    duration,
    figure,
    interval,
    metric_name,
    one_line,
    percent,
    short_digest,
    size,
    whole,
)

if TYPE_CHECKING:
    from trilho.gates import GateResult
    from trilho.registry import Foregone

TONES = {"PROMOTE": "good", "HOLD": "unsure", "REJECT": "bad"}
# each status of a gate with its word in a tally, those that decide first
STATUS = {
    "fail": (Mark("fail", "bad"), "failed"),
    "unsure": (Mark("unsure", "unsure"), "unsure"),
    "warn": (Mark("warning", "unsure"), "warned"),
    "pass": (Mark("pass", "good"), "passed"),
    "skip": (Mark("skipped", "muted"), "skipped"),
}
DECIDING = ("fail", "unsure", "warn")
# Usual reading of the population stability index: Siddiqi, Credit Risk Scorecards (2006), p. 137
DRIFT_SOME, DRIFT_MUCH = 0.1, 0.25


def document(inputs: ReportInputs) -> Document:
    """Arrange everything that `inputs` holds; a part without content is left out."""
    parts: list[Callable[[ReportInputs], Section | None]] = [
        _broken_data,
        quality.metrics,
        _gates,
        quality.flips,
        quality.slices,
        quality.fairness,
        quality.calibration,
        quality.scores,
        quality.thresholds,
        quality.confusion,
        quality.importance,
        _data_change,
        _validation,
        _speed,
        _origin,
        _reproduce,
    ]
    if inputs.foregone is not None:
        parts = []  # there is nothing but the headline to tell
    sections = [section for part in parts if (section := part(inputs)) is not None]
    # the address comes from the environment: only a plain web address becomes a link
    link = inputs.run_url if re.fullmatch(r"https?://[\w.:/%-]+", inputs.run_url or "") else None
    return Document(inputs.name, _headline(inputs), sections, link)


def _headline(inputs: ReportInputs) -> Headline:
    if inputs.foregone is not None:
        return _foregone(inputs.foregone)
    facts: list[tuple[str, Cell]] = []
    if inputs.digest is not None:
        facts.append(("candidate", Name(short_digest(inputs.digest))))
    if inputs.comparison is not None:
        champion = inputs.champion or "champion"
        facts.append((champion, Name(short_digest(inputs.comparison.champion_digest))))
    elif inputs.champion is not None:
        facts.append(("against", inputs.champion))
    if inputs.evaluation is not None:
        facts.append(("judged on", counted(inputs.evaluation.rows, "hold-out row")))
    elif inputs.validation is not None:
        facts.append(("read", counted(inputs.validation.rows, "row")))
    return Headline(*_verdict(inputs), facts, _tiles(inputs))


def _foregone(known: Foregone) -> Headline:
    """The headline where there was nothing to do; the digests in full, for whoever compares."""
    facts: list[tuple[str, Cell]] = []
    if known.champion_digest is not None:
        facts.append((f"champion v{known.champion_version}", Name(known.champion_digest)))
    if known.digest != known.champion_digest:
        made = f"v{known.version}" if known.version else "candidate"
        facts.append((made, Name(known.digest)))
    tone = "good"
    if known.quarantined is not None:
        tone = "bad" if known.verdict == "REJECT" else "unsure"
    return Headline(known.verdict, tone, known.reason, facts, [])


def _verdict(inputs: ReportInputs) -> tuple[str, str, str]:
    if inputs.invalid:
        assert inputs.validation is not None
        failures = inputs.validation.failures
        return (
            "DATA REJECTED",
            "bad",
            f"{counted(len(failures), 'check')} of the data schema failed, "
            "so no model was trained or judged.",
        )
    if inputs.verdict is None:
        return "NO VERDICT", "muted", "The gates have not judged this candidate yet."
    word = inputs.verdict.verdict
    # the word stands before it already
    reason = re.sub(rf"^{word}:\s*", "", one_line(inputs.verdict.summary), flags=re.IGNORECASE)
    return word, TONES[word], reason


def _tiles(inputs: ReportInputs) -> list[Tile]:
    evaluation, comparison = inputs.evaluation, inputs.comparison
    if evaluation is None:
        return []
    name = evaluation.primary
    tiles = []
    difference = comparison.metrics.get(name) if comparison else None
    if difference is not None:
        places = decimals(difference.candidate, difference.champion)
        below = f"{figure(difference.difference, places, signed=True)}, "
        mark = quality.judge(name, difference)
        tiles.append(
            Tile(
                metric_name(name),
                figure(difference.candidate),
                replace(mark, text=below + mark.text),
            )
        )
    elif (estimate := evaluation.metrics.get(name)) is not None:
        below = interval(estimate.low, estimate.high, decimals(estimate.value))
        tiles.append(Tile(metric_name(name), figure(estimate.value), below))
    if inputs.verdict is not None and inputs.verdict.results:
        results = inputs.verdict.results
        passed = sum(r.status == "pass" for r in results)
        failed = sum(r.status == "fail" for r in results)
        unsure = sum(r.status == "unsure" for r in results)
        found: Cell = Mark(f"{failed} failed", "bad") if failed else "none failed"
        if not failed and unsure:
            found = Mark(f"{unsure} unsure", "unsure")
        tiles.append(Tile("Gates passed", f"{passed} of {len(results)}", found))
    if comparison is not None and comparison.flips is not None:
        flips = comparison.flips
        balance = figure(flips.fixed - flips.broken, 0, signed=True)
        below = f"{whole(flips.fixed)} fixed, {whole(flips.broken)} broken"
        tiles.append(Tile("Right decisions", balance, below))
    if inputs.measurements is not None:
        time = duration(inputs.measurements.row_microseconds)
        tiles.append(Tile("One prediction", time, size(inputs.measurements.model_bytes)))
    return tiles


def _gates(inputs: ReportInputs) -> Section | None:
    if inputs.verdict is None or not inputs.verdict.results:
        return None
    # Python's sort is stable: within a status the gates keep their order
    results = sorted(inputs.verdict.results, key=lambda r: list(STATUS).index(r.status))
    worst = [r for r in results if r.status in DECIDING]
    rest = [r for r in results if r.status not in DECIDING]
    counts = {
        word: sum(r.status == status for r in results) for status, (_, word) in STATUS.items()
    }
    tally = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    if not worst:
        return Section("gates", "Gates", [_gate_table(rest)], lead=tally)
    blocks: list[Block] = [_gate_table(worst)]
    if rest:
        blocks.append(
            Folded(f"{counted(len(rest), 'gate')} passed or skipped", [_gate_table(rest)])
        )
    return Section("gates", "Gates", blocks, lead=tally, folded=False)


def _gate_table(results: list[GateResult]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for r in results:
        places = decimals(r.value, r.bound)
        message = r.message
        if r.rows_needed is not None:
            message += f" About {counted(r.rows_needed, 'hold-out row')} would decide."
        rows.append(
            (
                STATUS[r.status][0],
                r.gate,
                Name(r.subject) if r.subject else NOTHING,
                figure(r.value, places),
                interval(r.low, r.high, places),
                figure(r.bound, places),
                message,
            )
        )
    head = ("Result", "Gate", "Of", "Measured", "Interval", "Bound", "Reason")
    return Table(head, "lllrrrl", rows, "gate")


def _broken_data(inputs: ReportInputs) -> Section | None:
    if not inputs.invalid:
        return None
    assert inputs.validation is not None
    failures = inputs.validation.failures
    counts = Table(
        ("Column", "Check", "Rows", "What is wrong"),
        "llrl",
        [
            (
                Name(f.column) if f.column else "the dataset",
                Name(f.check),
                whole(f.count),
                f.message,
            )
            for f in failures
        ],
        "check",
    )
    samples: list[tuple[Cell, ...]] = [
        (
            Name(f.column) if f.column else "the dataset",
            Name(str(example.row)),
            NOTHING if example.line is None else whole(example.line),
            Name(str(example.value)),
            Name(f.check),
        )
        for f in failures
        for example in f.examples
    ]
    blocks: list[Block] = [counts]
    if samples:
        head = ("Column", "Row", "Line", "Value", "Check")
        blocks += [Paragraph(("Some of these rows:",)), Table(head, "llrll", samples, "row")]
    return Section("broken-data", "What the schema refused", blocks, folded=False)


def _data_change(inputs: ReportInputs) -> Section | None:
    data = inputs.comparison.data if inputs.comparison else None
    if data is None:
        return None
    changed = [c for c in data.columns if c.change != "same"]
    more = data.rows_now - data.rows_before
    rows = f"{whole(data.rows_before)} training rows then, {whole(data.rows_now)} now"
    if more and data.rows_before:
        rows += f" ({'+' if more > 0 else '−'}{abs(more) / data.rows_before:.1%})"
    blocks: list[Block] = []
    # what is new or gone first, then by drift
    columns = sorted(
        data.columns,
        key=lambda c: (c.change not in ("added", "removed"), -(c.psi or 0.0)),
    )
    most = max((c.psi or 0.0 for c in columns), default=0.0)
    table: list[tuple[Cell, ...]] = [
        (
            Name(c.column),
            _change(c.change, c.psi),
            Bar(c.psi / max(most, DRIFT_MUCH), figure(c.psi, 3)) if c.psi is not None else NOTHING,
            percent(c.missing_before),
            percent(c.missing_now),
        )
        for c in columns
    ]
    if table:
        head = ("Column", "Change", "Drift (PSI)", "Missing then", "Missing now")
        blocks.append(Table(head, "lllrr", table, "column"))
    lead = f"{rows}, {counted(len(changed), 'column') if changed else 'no column'} changed"
    return Section("data-change", "Data since the champion", blocks, lead=lead)


def _change(change: str, psi: float | None) -> Cell:
    if change in ("added", "removed"):
        return Mark(change, "unsure")
    if psi is None or psi < DRIFT_SOME:
        return Mark("stable" if change == "same" else change, "muted")
    return Mark("drifted much", "bad") if psi >= DRIFT_MUCH else Mark("drifted some", "unsure")


def _validation(inputs: ReportInputs) -> Section | None:
    validation = inputs.validation
    if validation is None or inputs.invalid:
        return None
    checked = f"{counted(validation.rows, 'row')} and {counted(len(validation.columns), 'column')}"
    text = (
        Name(validation.path),
        f" holds {checked}; every check of ",
        Name(validation.schema),
        " passed.",
    )
    return Section("validation", "Data validation", [Paragraph(text)], lead=f"{checked}, all valid")


def _speed(inputs: ReportInputs) -> Section | None:
    measured = inputs.measurements
    if measured is None:
        return None
    rows: list[tuple[Cell, ...]] = [
        ("One row", duration(measured.row_microseconds)),
        ("A row, in batches of 1,000", duration(measured.batch_microseconds)),
    ]
    if measured.champion_row_microseconds:
        times = measured.row_microseconds / measured.champion_row_microseconds
        champion = duration(measured.champion_row_microseconds)
        rows.insert(1, ("One row, champion in the same run", f"{champion} ({times:.2f} times)"))
    rows.append(("Size of the model's files", size(measured.model_bytes)))
    if inputs.manifest is not None:
        form = {"compiled": "compiled", "sklearn": "scikit-learn"}.get(
            inputs.manifest.serving, inputs.manifest.serving
        )
        if inputs.manifest.serving_reason:
            form += f": {inputs.manifest.serving_reason}"
        rows.append(("Form that serves", form))
        if inputs.manifest.largest_difference is not None:
            difference = f"{inputs.manifest.largest_difference:.1e}"
            rows.append(("Largest difference from scikit-learn", difference))
    one = duration(measured.row_microseconds)
    lead = f"{one} a row, {size(measured.model_bytes)}"
    return Section("speed", "Speed and size", [Table(("", ""), "lr", rows)], lead=lead)


def _origin(inputs: ReportInputs) -> Section | None:
    rows: list[tuple[Cell, ...]] = []
    if inputs.digest is not None:
        rows.append(("Candidate", Name(inputs.digest)))
    if inputs.comparison is not None:
        rows.append(("Champion", Name(inputs.comparison.champion_digest)))
    blocks: list[Block] = []
    if (manifest := inputs.manifest) is not None:
        rows += [
            ("Dataset", Name(manifest.dataset.digest)),
            ("Rows", f"{whole(manifest.dataset.rows)}, of them "
             f"{whole(manifest.dataset.holdout_rows)} held out"),
            ("Fingerprint", Name(manifest.fingerprint)),
            ("Lock file", Name(manifest.lock) if manifest.lock else NOTHING),
        ]  # fmt: skip
    elif inputs.validation is not None:
        rows.append(("Dataset", Name(inputs.validation.digest)))
    if (run := inputs.run) is not None:
        rows.append(("Run", Name(run.id)))
        if run.source.commit:
            rows.append(("Commit", Name(run.source.commit)))
        rows.append(("Trained in", duration(run.seconds * 1e6)))
    if rows:
        blocks.append(Table(("", ""), "ll", rows))
    if manifest is not None:
        for title, values in (
            ("Parameters", manifest.parameters),
            ("Environment", manifest.environment),
        ):
            if values:
                pairs: list[tuple[Cell, ...]] = [
                    (Name(str(key)), Name(str(value))) for key, value in sorted(values.items())
                ]
                blocks.append(Folded(title, [Table(("Name", "Value"), "ll", pairs)]))
    return Section("origin", "Digests and origin", blocks) if blocks else None


def _reproduce(inputs: ReportInputs) -> Section | None:
    if not inputs.reproduce:
        return None
    return Section("reproduce", "Reproduce", [Command(inputs.reproduce)], folded=False)
