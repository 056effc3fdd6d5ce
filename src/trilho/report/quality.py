"""The sections on how good the candidate is, and where."""

from __future__ import annotations

from trilho.evaluation.results import Difference, Estimate, Evaluation, SliceDifference
from trilho.report.document import (
    Bar,
    Block,
    Cell,
    Mark,
    Name,
    Paragraph,
    Section,
    Series,
    Table,
)
from trilho.report.inputs import ReportInputs
from trilho.report.text import (
    NOTHING,
    counted,
    decimals,
    figure,
    interval,
    lower_is_better,
    metric_name,
    percent,
    whole,
)

# what `score_histogram` holds: the section's title and its first column
SCORES = {
    "binary": ("Scores", "Score"),
    "multiclass": ("Confidence", "Top probability"),
    "regression": ("Residuals", "Truth minus prediction"),
}


def judge(metric: str, difference: Difference) -> Mark:
    """Return better, worse or within noise: the interval of the difference decides."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return Mark(NOTHING, "muted")
    if low <= 0 <= high:
        return Mark("within noise", "muted")
    better = (high < 0) if lower_is_better(metric) else (low > 0)
    return Mark("better", "good") if better else Mark("worse", "bad")


def metrics(inputs: ReportInputs) -> Section | None:
    evaluation, comparison = inputs.evaluation, inputs.comparison
    if evaluation is None:
        return None
    blocks: list[Block] = []
    if comparison is not None and comparison.impossible is None and comparison.metrics:
        title = f"Candidate beside {inputs.champion}"
        blocks.append(_beside(evaluation, comparison.metrics))
        text = (
            f"Both scored the same {counted(comparison.rows, 'hold-out row')}. "
            f"Intervals: {comparison.confidence:.0%} paired bootstrap, "
            f"{counted(comparison.resamples, 'resample')}; one that holds zero is noise."
        )
    else:
        title = "Candidate"
        blocks.append(_alone(evaluation))
        text = (
            f"Intervals: {evaluation.confidence:.0%} bootstrap, "
            f"{counted(evaluation.resamples, 'resample')}, "
            f"{counted(evaluation.rows, 'hold-out row')}. "
        )
        if comparison is None:
            text += "There is no champion to compare with; only absolute limits apply."
    if evaluation.threshold is not None:
        text += f" Decisions at a score of {figure(evaluation.threshold, 3)} or more."
    blocks.append(Paragraph((text,)))
    if comparison is not None and comparison.impossible is not None:
        why = f"The champion could not be scored on these rows: {comparison.impossible}"
        blocks.insert(0, Paragraph((Mark("No comparison.", "unsure"), " " + why)))
    for caveat in comparison.caveats[:5] if comparison else []:
        blocks.append(Paragraph((Mark("Caveat:", "unsure"), " " + caveat)))
    return Section("metrics", title, blocks, folded=False)


def ordered(evaluation: Evaluation, names: list[str]) -> list[str]:
    """Return the metrics with the primary one first."""
    return sorted(names, key=lambda name: name != evaluation.primary)


def _metric(evaluation: Evaluation, name: str) -> str:
    arrow = "lower is better" if lower_is_better(name) else ""
    notes = [note for note in ("primary" if name == evaluation.primary else "", arrow) if note]
    return metric_name(name) + (f" ({', '.join(notes)})" if notes else "")


def _beside(evaluation: Evaluation, differences: dict[str, Difference]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in ordered(evaluation, list(differences)):
        d = differences[name]
        places = decimals(d.candidate, d.champion)
        rows.append(
            (
                _metric(evaluation, name),
                figure(d.candidate, places),
                figure(d.champion, places),
                figure(d.difference, places, signed=True),
                interval(d.low, d.high, places, signed=True),
                judge(name, d),
            )
        )
    head = ("Metric", "Candidate", "Champion", "Difference", "Interval", "")
    return Table(head, "lrrrrl", rows, "metric")


def _alone(evaluation: Evaluation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in ordered(evaluation, list(evaluation.metrics)):
        e = evaluation.metrics[name]
        places = decimals(e.value)
        rows.append(
            (
                _metric(evaluation, name),
                figure(e.value, places),
                interval(e.low, e.high, places),
            )
        )
    return Table(("Metric", "Candidate", "Interval"), "lrr", rows, "metric")


def flips(inputs: ReportInputs) -> Section | None:
    found = inputs.comparison.flips if inputs.comparison else None
    if found is None:
        return None
    rows: list[tuple[Cell, ...]] = [
        ("Fixed: champion wrong, candidate right", whole(found.fixed)),
        ("Broken: champion right, candidate wrong", whole(found.broken)),
        ("Balance", figure(found.fixed - found.broken, 0, signed=True)),
    ]
    blocks: list[Block] = [Table(("Decision", "Rows"), "lr", rows)]
    for title, ids in (("fixed", found.fixed_ids), ("broken", found.broken_ids)):
        if ids:
            parts: list[Cell] = [f"Some rows {title}: "]
            for i, row in enumerate(ids[:10]):
                parts += [", "] * (i > 0) + [Name(row)]
            blocks.append(Paragraph(tuple(parts)))
    lead = f"{whole(found.fixed)} rows fixed, {whole(found.broken)} broken"
    return Section("flips", "Decisions that turned", blocks, lead=lead)


def slices(inputs: ReportInputs) -> Section | None:
    evaluation, comparison = inputs.evaluation, inputs.comparison
    if evaluation is None or not evaluation.slices:
        return None
    metric = slice_metric(evaluation)
    found = {(s.column, s.label): s for s in comparison.slices} if comparison else {}
    rows: list[tuple[Cell, ...]] = []
    for s in evaluation.slices:
        e = s.metrics.get(metric, Estimate(value=None))
        places = decimals(e.value)
        row: list[Cell] = [
            Name(s.column),
            Name(s.label),
            whole(s.rows),
            percent(s.positives / s.rows) if s.positives is not None and s.rows else NOTHING,
            figure(e.value, places),
            interval(e.low, e.high, places),
        ]
        if found:
            d = _slice_difference(found.get((s.column, s.label)), metric)
            row += [
                figure(d.difference, places, signed=True),
                interval(d.low, d.high, places, signed=True),
                judge(metric, d),
            ]
        rows.append(tuple(row))
    rows.sort(key=lambda row: not _is_bad(row[-1]))  # stable: the worse first, for they decide
    name = metric_name(metric)
    head: list[Cell] = ["Column", "Group", "Rows", "Positive", name, "Interval"]
    if found:
        head += ["Difference", "Interval", ""]
    align = "llrrrr" + "rrl" * bool(found)
    if evaluation.task != "binary":
        rows = [row[:3] + row[4:] for row in rows]
        head, align = head[:3] + head[4:], align[:3] + align[4:]
    worse = sum(_is_bad(row[-1]) for row in rows)
    lead = counted(len(rows), "group") + (f", {worse} worse than the champion" if worse else "")
    blocks: list[Block] = [Table(tuple(head), align, rows, "group")]
    if worse:
        note = "Each group is marked by itself, so among many a few are worse by chance; the gate "
        blocks.append(Paragraph((note + "allows for their number.",)))
    return Section("slices", f"Slices by {name}", blocks, lead=lead)


def slice_metric(evaluation: Evaluation) -> str:
    """Return the metric that slices are shown by: the primary one where they have it."""
    names = [name for s in evaluation.slices for name in s.metrics]
    return evaluation.primary if evaluation.primary in names or not names else names[0]


def _slice_difference(found: SliceDifference | None, metric: str) -> Difference:
    nothing = Difference(candidate=None, champion=None, difference=None)
    return found.metrics.get(metric, nothing) if found else nothing


def _is_bad(cell: Cell) -> bool:
    return isinstance(cell, Mark) and cell.tone == "bad"


def fairness(inputs: ReportInputs) -> Section | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.fairness:
        return None
    gaps: list[tuple[Cell, ...]] = []
    groups: list[tuple[Cell, ...]] = []
    for f in evaluation.fairness:
        gaps.append(
            (
                Name(f.column),
                figure(f.selection_rate_gap.value, 3),
                interval(f.selection_rate_gap.low, f.selection_rate_gap.high, 3),
                figure(f.true_positive_rate_gap.value, 3),
                interval(f.true_positive_rate_gap.low, f.true_positive_rate_gap.high, 3),
            )
        )
        for g in f.groups:
            groups.append(
                (
                    Name(f.column),
                    Name(g.label),
                    whole(g.rows),
                    percent(g.selection_rate),
                    percent(g.true_positive_rate),
                )
            )
    head = ("Column", "Selection gap", "Interval", "True positive gap", "Interval")
    blocks: list[Block] = [
        Table(head, "lrrrr", gaps, "column"),
        Table(
            ("Column", "Group", "Rows", "Selected", "True positives found"),
            "llrrr",
            groups,
            "group",
        ),
    ]
    largest = max(
        (
            gap
            for f in evaluation.fairness
            for gap in (f.selection_rate_gap.value, f.true_positive_rate_gap.value)
            if gap is not None
        ),
        default=None,
    )
    lead = f"largest gap {figure(largest, 3)}" if largest is not None else ""
    return Section("fairness", "Fairness", blocks, lead=lead)


def calibration(inputs: ReportInputs) -> Section | None:
    evaluation = inputs.evaluation
    bins = [b for b in evaluation.calibration if b.rows] if evaluation else []
    if evaluation is None or not bins:
        return None
    rows: list[tuple[Cell, ...]] = [
        (
            whole(b.rows),
            percent(b.mean_predicted),
            percent(b.observed),
            figure(100 * (b.observed - b.mean_predicted), 1, signed=True),
        )
        for b in bins
    ]
    chosen = bins[:: max(1, -(-len(bins) // 12))]
    chart = Series(
        "Calibration: observed (bars) and predicted (line), percent",
        "bin of the score, lowest first",
        "percent positive",
        [str(i + 1) for i in range(len(chosen))],
        [100 * b.observed for b in chosen],
        [100 * b.mean_predicted for b in chosen],
    )
    ece = evaluation.metrics.get("ece")
    lead = f"ECE {figure(ece.value)}" if ece is not None and ece.value is not None else ""
    head = ("Rows", "Predicted", "Observed", "Points off")
    blocks: list[Block] = [chart, Table(head, "rrrr", rows, "bin")]
    return Section("calibration", "Calibration", blocks, lead=lead)


def scores(inputs: ReportInputs) -> Section | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.score_histogram:
        return None
    counts = evaluation.score_histogram
    total, most = sum(counts) or 1, max(counts) or 1
    edges = score_edges(evaluation)
    places = decimals(*edges) if evaluation.task == "regression" else 2
    rows: list[tuple[Cell, ...]] = [
        (
            interval(edges[i], edges[i + 1], places),
            Bar(count / most, percent(count / total)),
            whole(count),
        )
        for i, count in enumerate(counts)
    ]
    title, first = SCORES.get(evaluation.task, SCORES["binary"])
    head = (first, "Share", "Rows")
    return Section("scores", title, [Table(head, "rlr", rows, "bin")])


def score_edges(evaluation: Evaluation) -> list[float]:
    """Return the edges of the bins of `score_histogram`, one more than there are bins."""
    low, high = evaluation.score_range or (0.0, 1.0)
    bins = len(evaluation.score_histogram)
    return [low + (high - low) * i / bins for i in range(bins + 1)]


def thresholds(inputs: ReportInputs) -> Section | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.thresholds:
        return None
    chosen = evaluation.threshold
    nearest = min(
        (abs(t.threshold - chosen) for t in evaluation.thresholds) if chosen is not None else [],
        default=None,
    )
    rows: list[tuple[Cell, ...]] = [
        (
            figure(t.threshold, 2),
            percent(t.selected),
            percent(t.precision),
            percent(t.recall),
            figure(t.f1, 3),
            percent(t.accuracy),
            Mark("in use", "good")
            if chosen is not None and nearest == abs(t.threshold - chosen) < 0.005
            else "",
        )
        for t in evaluation.thresholds
    ]
    head = ("Threshold", "Selected", "Precision", "Recall", "F1", "Accuracy", "")
    lead = f"decides at {figure(chosen, 3)}" if chosen is not None else ""
    blocks: list[Block] = [Table(head, "rrrrrrl", rows, "threshold")]
    return Section("thresholds", "Thresholds", blocks, lead=lead)


def confusion(inputs: ReportInputs) -> Section | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.confusion:
        return None
    matrix = evaluation.confusion
    classes = evaluation.classes or [str(i) for i in range(len(matrix))]
    if len(matrix) <= 8:
        rows: list[tuple[Cell, ...]] = [
            (Name(label), *(whole(n) for n in row), percent(row[i] / sum(row)) if sum(row) else "")
            for i, (label, row) in enumerate(zip(classes, matrix, strict=False))
        ]
        columns = (Name(label) for label in classes)
        head: tuple[Cell, ...] = ("Truth, by row", *columns, "Right")
        blocks: list[Block] = [Table(head, "l" + "r" * (len(matrix) + 1), rows, "class")]
    else:
        blocks = [_confused(classes, matrix)]
    right = sum(row[i] for i, row in enumerate(matrix) if i < len(row))
    total = sum(map(sum, matrix))
    lead = f"{percent(right / total)} of decisions right" if total else ""
    return Section("confusion", "Confusion", blocks, lead=lead)


def _confused(classes: list[str], matrix: list[list[int]]) -> Table:
    """Return the pairs of classes that are mistaken most: a large matrix is not read as a whole."""
    pairs = [
        (count, i, j)
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    rows: list[tuple[Cell, ...]] = [
        (Name(classes[i]), Name(classes[j]), whole(count), percent(count / sum(matrix[i])))
        for count, i, j in pairs[:100]
    ]
    return Table(("Truth", "Predicted", "Rows", "Of its class"), "llrr", rows, "pair")


def importance(inputs: ReportInputs) -> Section | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.importance:
        return None
    features = sorted(evaluation.importance, key=lambda i: -i.mean)
    most = max(features[0].mean, 1e-12)
    places = decimals(features[0].mean)
    alone = evaluation.single_feature
    rows: list[tuple[Cell, ...]] = [
        (
            Name(i.feature),
            Bar(i.mean / most, figure(i.mean, places)),
            figure(i.sd, places),
            figure(alone.get(i.feature), 3),
        )
        for i in features
    ]
    name = metric_name(evaluation.primary)
    head = ("Column", f"Loss of {name} when shuffled", "SD", "Alone")
    measure = "absolute Spearman correlation" if evaluation.task == "regression" else "ROC AUC"
    note = f"Alone: how well the column by itself ranks the target ({measure}); near 1 is a leak."
    blocks: list[Block] = [Table(head, "llrr", rows, "column")]
    if alone:
        blocks.append(Paragraph((note,)))
    return Section("importance", "What the model looks at", blocks)
