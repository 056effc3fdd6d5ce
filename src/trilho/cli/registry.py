"""The verbs that store models and runs, and look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trilho.cli.console import Step, emit, err, headline, number, say, step, table
from trilho.cli.model import job
from trilho.cli.options import (
    CONFIG,
    RUN,
    AllowHold,
    Config,
    Data,
    Json,
    Params,
    RequireAttestation,
    RunFolder,
    Search,
    Settings,
    overrides,
    switch,
)
from trilho.errors import UsageError

if TYPE_CHECKING:
    from trilho.pipeline import Job
    from trilho.registry import Registry, RunRecord

PANEL = "Store and look up"


def add(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(rich_help_panel=PANEL)(publish)
    for name, verb, shows in (
        ("models", models_list, (models_show, models_diff)),
        ("runs", runs_list, (runs_diff,)),
    ):
        group = typer.Typer(invoke_without_command=True, help=verb.__doc__, rich_markup_mode="rich")
        group.callback()(verb)
        for show in shows:
            group.command(show.__name__.partition("_")[2])(show)
        app.add_typer(group, name=name, rich_help_panel=PANEL)


def publish(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    settings: Settings = None,
    data: Data = None,
    params: Params = None,
    search: Search = None,
    candidate: Annotated[
        bool,
        typer.Option(
            "--candidate",
            callback=switch("TRILHO_CANDIDATE"),
            help="Store the bundle as a candidate only. \\[env var: TRILHO_CANDIDATE]",
        ),
    ] = False,
    allow_hold: AllowHold = False,
    expect: Annotated[
        str | None,
        typer.Option(
            envvar="TRILHO_EXPECT",
            metavar="DIGEST",
            help="The bundle that was approved; another one is refused.",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(envvar="TRILHO_REASON", help="Why, for the history.")
    ] = None,
    require_attestation: RequireAttestation = False,
    json: Json = False,
) -> None:
    """Store the run's bundle in the registry, as a candidate or as the next version."""
    from trilho import github, pipeline

    work = job(config, run, overrides(settings, data, params, search))
    with step("publish") as now:
        if require_attestation and not candidate:
            _attested(work, now)
        stored = pipeline.store_candidate(work, reason, expect=expect, tell=now.tell)
        github.set_output("verdict", stored.verdict)
        github.set_output("model-digest", stored.digest)
        if candidate:
            now.close(f"candidate {stored.digest} ({stored.verdict}) in {work.config.registry}")
            if json:
                emit(stored)
            return
        version = pipeline.publish(work, stored, allow_hold=allow_hold)
        now.close(f"version {version.number} is {version.digest} in {work.config.registry}")
    github.set_output("model-version", str(version.number))
    if json:
        emit(version)


def _attested(work: Job, now: Step) -> None:
    """Refuse a bundle that nobody attested, before anything of it is loaded."""
    from trilho.bundle import MANIFEST
    from trilho.github import attestation
    from trilho.pipeline.making import fetch

    fetch(work, now.tell)
    signer = attestation.verify((work.bundle / MANIFEST).read_bytes(), work.digest)
    say(f"  attested by {signer}", dim=True)


def models_list(context: typer.Context, config: Config = CONFIG, json: Json = False) -> None:
    """List, show and compare the published versions."""
    context.obj = config
    if context.invoked_subcommand:
        return
    from trilho.registry import describe

    found = describe(_registry(config))
    if json:
        emit(found)
        return
    if not found:
        err.print("No version yet. `trilho publish` makes the first.", markup=False)
        return
    metrics = headline(found[0].version.metrics)
    rows = []
    for described in found:
        version = described.version
        state = ", ".join(described.aliases + (["quarantined"] if described.quarantined else []))
        rows.append(
            [
                str(version.number),
                state,
                version.verdict,
                *(number(version.metrics.get(m)) for m in metrics),
                version.digest.removeprefix("sha256:")[:12],
                version.source.actor,
                version.created_at[:16].replace("T", " "),
            ]
        )
    headers = ["version", "alias", "verdict", *metrics, "digest", "by", "at (UTC)"]
    table(None, headers, rows, right={0, *range(3, 3 + len(metrics))})


def models_show(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="3, v3, champion, or a digest's beginning.")],
    json: Json = False,
) -> None:
    """Show all that is known of one version."""
    from trilho.registry import describe, resolve

    registry = _registry(context.obj)
    chosen = resolve(registry, version)
    manifest = registry.read_manifest(chosen.digest)
    described = next(d for d in describe(registry) if d.version.number == chosen.number)
    if json:
        emit({"version": chosen, "manifest": manifest, "aliases": described.aliases})
        return
    barred = described.quarantined
    facts: list[tuple[str, Any]] = [
        ("version", chosen.number),
        ("alias", ", ".join(described.aliases) or "–"),
        ("quarantine", barred.reason if barred else "–"),
        ("verdict", chosen.verdict),
        ("digest", chosen.digest),
        ("fingerprint", chosen.fingerprint),
        ("dataset", f"{manifest.dataset.rows:,} rows, {manifest.dataset.digest}"),
        ("served by", manifest.serving + (f" ({r})" if (r := manifest.serving_reason) else "")),
        ("published by", chosen.source.actor),
        ("at", chosen.created_at),
        ("commit", chosen.source.commit or "–"),
        ("run", chosen.source.run_url or "–"),
        ("reason", chosen.source.reason or "–"),
    ]
    table(None, ["", ""], [[k, str(v)] for k, v in facts], right=set())
    sections: list[tuple[str, dict[str, Any]]] = [
        ("metrics", manifest.metrics),
        ("parameters", manifest.parameters),
        ("environment", manifest.environment),
        ("files", {n: f"{f.size:,} bytes" for n, f in manifest.files.items()}),
    ]
    for title, values in sections:
        rows = [[k, number(v, 6) if isinstance(v, float) else str(v)] for k, v in values.items()]
        table(f"\n[bold]{title}[/]", ["", ""], rows, right=set())


def models_diff(
    context: typer.Context,
    before: Annotated[str, typer.Argument(help="The version before.")],
    after: Annotated[str, typer.Argument(help="The version after.")],
    json: Json = False,
) -> None:
    """Show what differs between two versions."""
    from trilho.registry import diff, resolve

    registry = _registry(context.obj)
    found = diff(registry, resolve(registry, before), resolve(registry, after))
    if json:
        emit(found)
        return
    rows = []
    for section in ("bundle", "dataset", "metrics", "parameters", "environment", "files"):
        for change in getattr(found, section):
            rows.append([section, change.name, _short(change.before), _short(change.after)])
    a, b = f"v{found.a.number}", f"v{found.b.number}"
    if not rows:
        err.print(f"{a} and {b} are the same bundle.")
        return
    table(None, ["", "what", a, b], rows, right={2, 3})


def runs_list(
    context: typer.Context,
    config: Config = CONFIG,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest N.")] = 20,
    json: Json = False,
) -> None:
    """List and compare the training runs."""
    context.obj = config
    if context.invoked_subcommand:
        return
    found = _runs(_registry(config))[:limit]
    if json:
        emit(found)
        return
    if not found:
        err.print("No run yet. `trilho train` makes the first.", markup=False)
        return
    metrics = headline(found[0].metrics)
    rows = [
        [
            run.id,
            *(number(run.metrics.get(m)) for m in metrics),
            f"{run.seconds:.1f}",
            (run.digest or "–").removeprefix("sha256:")[:12],
            run.source.branch or "–",
            (run.source.commit or "–")[:8],
            run.source.actor,
        ]
        for run in found
    ]
    headers = ["run", *metrics, "seconds", "digest", "branch", "commit", "by"]
    table(None, headers, rows, right=set(range(1, 2 + len(metrics))))


def runs_diff(
    context: typer.Context,
    before: Annotated[str, typer.Argument(help="A run's id or its beginning.")],
    after: Annotated[str, typer.Argument(help="Another run's id or its beginning.")],
    json: Json = False,
) -> None:
    """Show what differs between two training runs."""
    from msgspec import to_builtins

    from trilho.registry import changes

    runs = _runs(_registry(context.obj))
    a, b = _run(runs, before), _run(runs, after)
    ignored = {"id", "started_at", "search"}
    old, new = ({k: v for k, v in to_builtins(run).items() if k not in ignored} for run in (a, b))
    found = changes(old, new)
    if json:
        emit(found)
        return
    rows = [[c.name, _short(c.before), _short(c.after)] for c in found]
    table(None, ["what", a.id, b.id], rows, right={1, 2})


def _registry(config: Any) -> Registry:
    from trilho.config import load
    from trilho.registry import open_registry

    return open_registry(load(config).registry)


def _runs(registry: Registry) -> list[RunRecord]:
    return sorted(registry.runs(), key=lambda run: run.started_at, reverse=True)


def _run(runs: list[RunRecord], reference: str) -> RunRecord:
    matching = [run for run in runs if run.id.startswith(reference)]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(run.id for run in runs[:10]) or "none"
    problem = "fits several runs" if matching else "is no run"
    raise UsageError(f"'{reference}' {problem}. The newest: {known}.")


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return number(value, 6)
    text = str(value)
    if text.startswith("sha256:"):
        return text[7:19]
    return text if len(text) <= 60 else text[:57] + "…"
