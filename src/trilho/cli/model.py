"""The verbs that make and judge a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trilho.cli.console import emit, err, headline, number, say, step, table, warn
from trilho.cli.options import (
    CONFIG,
    RUN,
    AllowHold,
    Config,
    Data,
    Force,
    Json,
    Params,
    RunFolder,
    Search,
    Settings,
    overrides,
    switch,
)
from trilho.errors import UsageError

if TYPE_CHECKING:
    from trilho.config import Overrides
    from trilho.gates import Verdict
    from trilho.pipeline import Job
    from trilho.registry import Foregone, RunRecord
    from trilho.schema import Validation

PANEL = "Make and judge a model"
SHOWN = 6  # findings of the gates on the terminal; the report has them all
EXIT = {"PROMOTE": 0, "REJECT": 4, "HOLD": 5}


def add(app: typer.Typer) -> None:
    """Add the verbs to the command line, in the order of the rail."""
    for verb in (init, validate, train, evaluate, gate, report, retrain):
        app.command(rich_help_panel=PANEL)(verb)


def job(config: Path, run: Path, given: Overrides | None = None, force: bool = False) -> Job:
    """Read the pipeline file and bind it to a run folder."""
    from trilho import pipeline
    from trilho.config import Overrides, load

    given = given or Overrides()
    return pipeline.Job(
        load(config, given), folder=run, config_path=config, overrides=given, force=force
    )


def init(
    data: Annotated[
        Path | None, typer.Argument(help="A CSV, gzipped CSV or Parquet file.", show_default=False)
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict.")] = None,
    workflows: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/trilho@v1",
            help="Write workflows that call this repository of Trilho, at a tag or commit.",
        ),
    ] = None,
) -> None:
    """Write a pipeline.yaml and an inferred schema for a dataset, and workflows, in this folder."""
    from trilho import init as write

    if (data is None) != (target is None) or (data is None and workflows is None):
        raise UsageError(
            "trilho init needs a dataset and its --target, or --workflows, or all of them.",
            hint="Such as `trilho init mydata.csv --target y --workflows OWNER/trilho@v1`.",
        )
    texts = {} if workflows is None else write.callers(workflows, Path())
    written = [] if data is None or target is None else write.init(data, target, Path())
    written += write.save(texts)
    for path in written:
        err.print(f"wrote {path}")
    if data is not None:
        err.print("Look them over, then run [bold]trilho validate && trilho train[/].")


def validate(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    settings: Settings = None,
    data: Data = None,
    params: Params = None,
    search: Search = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Check the dataset against its schema; exit 3 when it does not hold."""
    done = _validate(job(config, run, overrides(settings, data, params, search), force))
    if json:
        emit(done)
    _stop_if_invalid(done)


def train(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    settings: Settings = None,
    data: Data = None,
    params: Params = None,
    search: Search = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Fit the model, prove its serving form, and seal both as a bundle."""
    record = _train(job(config, run, overrides(settings, data, params, search), force))
    if json:
        emit(record)


def evaluate(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    settings: Settings = None,
    data: Data = None,
    params: Params = None,
    search: Search = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Score candidate and champion on the same frozen hold-out rows."""
    comparison = _evaluate(job(config, run, overrides(settings, data, params, search), force))
    if json:
        emit(comparison)


def gate(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    settings: Settings = None,
    data: Data = None,
    params: Params = None,
    search: Search = None,
    json: Json = False,
) -> None:
    """Say PROMOTE, HOLD (exit 5) or REJECT (exit 4)."""
    verdict = _gate(job(config, run, overrides(settings, data, params, search)))
    if json:
        emit(verdict)
    raise typer.Exit(EXIT[verdict.verdict])


def report(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    settings: Settings = None,
    data: Data = None,
    params: Params = None,
    search: Search = None,
    force: Force = False,
    comment: Annotated[
        bool,
        typer.Option(
            "--comment",
            callback=switch("TRILHO_COMMENT"),
            help="Post it to the pull request of this run, over the comment of the last push. "
            "\\[env var: TRILHO_COMMENT]",
        ),
    ] = False,
    title: Annotated[
        str | None,
        typer.Option(
            envvar="TRILHO_TITLE",
            help="Above the comment, and what tells it from others; default: the pipeline's name.",
        ),
    ] = None,
    numbers: Annotated[
        Path | None,
        typer.Option(
            envvar="TRILHO_NUMBERS",
            help="A numbers.json that a fork's run left: report its figures as unverified, and "
            "read no pipeline.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write report.md and report.html for the person who must decide, and post it if asked."""
    from trilho import github
    from trilho.cli import posting

    url = ""
    if numbers is not None:
        url = posting.fork(numbers, title=title, wanted=comment)
        written = {"numbers": str(numbers)}
    else:
        work = job(config, run, overrides(settings, data, params, search), force)
        markdown, html = _report(work)
        written = {
            "markdown": str(markdown),
            "html": str(html),
            "numbers": str(work.folder / "numbers.json"),
        }
        if comment:
            url = posting.comment(markdown, name=work.config.name, title=title)
    github.set_output("numbers-path", written["numbers"])
    github.set_output("comment-url", url)
    if json:
        emit(written | {"comment": url or None})


def retrain(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    settings: Settings = None,
    data: Data = None,
    params: Params = None,
    search: Search = None,
    force: Force = False,
    allow_hold: AllowHold = False,
    json: Json = False,
) -> None:
    """Validate, train, evaluate, gate and report in one go; unchanged inputs end at once."""
    from trilho import pipeline

    work = job(config, run, overrides(settings, data, params, search), force)
    if (known := pipeline.foregone(work)) is not None:
        _foregone(work, known, json)
        return
    pipeline.all_steps(work)
    validation = _validate(work)
    if not validation.ok:
        _report(work)
        if json:
            emit(validation)
        _stop_if_invalid(validation)
    _train(work)
    work.registry.refuse_quarantined(work.digest)  # which --force may have made again
    _evaluate(work)
    verdict = _gate(work)
    _report(work)
    if json:
        emit(verdict)
    raise typer.Exit(0 if allow_hold and verdict.verdict == "HOLD" else EXIT[verdict.verdict])


def _foregone(work: Job, known: Foregone, json: bool) -> None:
    """Tell the outcome of inputs that need no work."""
    from trilho import github

    unchanged = known.verdict == "UNCHANGED"
    with step("retrain") as now:
        now.close(f"{known.verdict}: {known.reason}", "same" if unchanged else "fail")
    _report(work)
    github.set_output("verdict", known.verdict)
    github.set_output("changed", "false")  # there is nothing to store, and nothing to deploy
    github.set_output("model-digest", (known.champion_digest or "") if unchanged else known.digest)
    if json:
        emit(known)
    if not unchanged:
        work.registry.refuse_quarantined(known.digest)
    elif known.quarantined is not None:
        warn(known.reason)


def _validate(work: Job) -> Validation:
    from trilho import github, pipeline

    github.set_output("dataset-digest", work.dataset_digest)
    with step("validate") as now:
        done = pipeline.validate(work, now.tell)
        result = done.value
        if result.ok:
            now.close(
                f"{result.rows:,} rows, {len(result.columns)} columns, no failure",
                "same" if done.same else "done",
            )
        else:
            bad = sum(f.count for f in result.failures)
            now.close(f"{len(result.failures)} checks failed on {bad:,} values", "fail")
    github.set_output("rows", str(result.rows))
    if not result.ok:
        _show_failures(result)
    return result


def _show_failures(result: Validation) -> None:
    rows = []
    for failure in result.failures:
        examples = ", ".join(
            f"{e.value}" + (f" (line {e.line})" if e.line else "") for e in failure.examples[:3]
        )
        rows.append([failure.column or "(dataset)", failure.check, f"{failure.count:,}", examples])
    table(None, ["column", "check", "failures", "such as"], rows, right={2}, stderr=True)


def _stop_if_invalid(result: Validation) -> None:
    from trilho.schema import error_of

    if not result.ok:
        raise error_of(result)


def _train(work: Job) -> RunRecord:
    from trilho import github, pipeline

    with step("train") as now:
        done = pipeline.train(work, now.tell)
        # only what was made here may be attested here
        github.set_output("trained", "false" if done.same else "true")
        record = done.value
        shown = ", ".join(f"{m} {number(record.metrics[m])}" for m in headline(record.metrics))
        now.close(f"{shown}, {record.digest}", "same" if done.same else "done")
    for note in pipeline.record_run(work, record):
        warn(note)
    return record


def _evaluate(work: Job) -> Any:
    from trilho import pipeline

    with step("evaluate") as now:
        done = pipeline.evaluate(work, now.tell)
        comparison = done.value
        if comparison is None:
            now.close("no champion yet: the candidate is judged alone")
        elif comparison.impossible:
            now.close(comparison.impossible, "warn")
        else:
            parts = []
            for name in headline({m: d.difference for m, d in comparison.metrics.items()}):
                if (difference := comparison.metrics[name].difference) is not None:
                    parts.append(f"{name} {difference:+.4f}")
            now.close(
                f"against champion v{comparison.champion_version}: {', '.join(parts)}",
                "same" if done.same else "done",
            )
    return comparison


def _gate(work: Job) -> Verdict:
    from trilho import github, pipeline

    with step("gate") as now:
        verdict = pipeline.gate(work).value
        mark = {"PROMOTE": "done", "HOLD": "warn", "REJECT": "fail"}[verdict.verdict]
        now.close(verdict.summary, mark)
    findings = [r for r in verdict.results if r.status in ("fail", "unsure", "warn")]
    for result in findings[:SHOWN]:
        say(f"  {result.gate}, {result.subject}: {result.message}")
    if len(findings) > SHOWN:
        say(f"  … and {len(findings) - SHOWN} more, in the report")
    github.set_output("verdict", verdict.verdict)
    github.set_output("changed", "false" if verdict.candidate == verdict.champion else "true")
    github.set_output("model-digest", verdict.candidate)
    return verdict


def _report(work: Job) -> tuple[Path, Path]:
    from trilho import github, pipeline

    with step("report") as now:
        done = pipeline.report(work, now.tell)
        markdown, html = done.value
        now.close(f"{markdown}, {html}", "same" if done.same else "done")
    github.set_output("report-path", str(markdown))
    github.set_output("html-path", str(html))
    if not done.same:  # else a verb before this one put it there
        github.add_summary(markdown.read_text(encoding="utf-8"))
    return markdown, html
