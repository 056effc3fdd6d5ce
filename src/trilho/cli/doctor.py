"""The verb that looks whether everything is as a deployment needs it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from trilho.cli.console import emit, err, harmless, say, step, table
from trilho.cli.options import CONFIG, Config, Json, switch
from trilho.errors import UnsoundError

if TYPE_CHECKING:
    from trilho.doctor import Context, Finding

PANEL = "Run a model"
MARKS = {"pass": "done", "skip": "same", "warn": "warn", "fail": "fail"}
SIGNS = {"pass": "✓ pass", "skip": "= skip", "warn": "! warn", "fail": "✗ fail"}


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(rich_help_panel=PANEL)(doctor)


def doctor(
    config: Config = CONFIG,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            callback=switch("TRILHO_DEEP"),
            help="Read every file of every version and compare its content. "
            "\\[env var: TRILHO_DEEP]",
        ),
    ] = False,
    identity: Annotated[
        str | None,
        typer.Option(
            envvar="TRILHO_IDENTITY",
            metavar="pull-request|deploy|observer",
            help="Which identity these credentials are, for what they must be able to do; default: "
            "by the caller's name. observer: only looks.",
        ),
    ] = None,
    environment: Annotated[
        str,
        typer.Option(envvar="TRILHO_ENVIRONMENT", help="The GitHub environment that deploys."),
    ] = "production",
    policy: Annotated[
        bool,
        typer.Option("--policy", help="Print the IAM policy that the checks take, and stop."),
    ] = False,
    json: Json = False,
) -> None:
    """Look whether everything is as a deployment needs it, and say how to mend what is not.

    Credentials and permissions, the bucket, the registry, the ECS service, its alarms, GitHub, the
    runner. Changes nothing. What cannot be looked at is `skip`, with the reason. Exits 8 when
    something fails; warnings are no failure.
    """
    from trilho import doctor as examination
    from trilho import github
    from trilho.report.doctor import doctor as summary

    context = _context(config, deep, identity, environment)
    if policy:
        print(examination.policy(context))
        return
    findings = _examine(context)
    _show(findings)
    worst = examination.worst(findings)
    counts = {status: sum(f.status == status for f in findings) for status in MARKS}
    github.add_summary(summary(findings))
    github.set_output("outcome", worst)
    github.set_output("failures", str(counts["fail"]))
    github.set_output("warnings", str(counts["warn"]))
    if json:
        emit({"outcome": worst, "findings": findings})
    if worst == "fail":
        raise UnsoundError(
            f"{counts['fail']} of {len(findings)} checks failed.",
            hint="Each one's remedy stands above; run `trilho doctor` again afterwards.",
        )


def _context(config: object, deep: bool, identity: str | None, environment: str) -> Context:
    from pathlib import Path
    from typing import cast, get_args

    from trilho.config import load
    from trilho.doctor import Context
    from trilho.doctor.context import Identity
    from trilho.errors import UsageError

    if identity not in (None, *get_args(Identity)):
        raise UsageError(
            f"--identity (TRILHO_IDENTITY) takes {', '.join(get_args(Identity))}, not {identity!r}."
        )
    pipeline = load(cast(Path, config))
    return Context(
        pipeline.registry,
        pipeline.deploy,
        deep=deep,
        identity=cast("Identity | None", identity),
        environment=environment,
    )


def _examine(context: Context) -> list[Finding]:
    """Make all checks, a line of progress for each area."""
    from trilho.doctor import CHECKS, examine, worst

    findings: list[Finding] = []
    for area, checks in groupby(CHECKS, lambda check: check.area):
        with step(area) as now:
            context.tell = now.tell
            mine = [f for _, found in examine(context, tuple(checks)) for f in found]
            counts = [(status, sum(f.status == status for f in mine)) for status in MARKS]
            told = ", ".join(f"{count} {status}" for status, count in counts if count)
            now.close(told, MARKS[worst(mine)])
        findings += mine
    return findings


def _show(findings: list[Finding]) -> None:
    """Print the table, then each remedy on lines of its own, which can be copied whole."""
    err.print()
    rows = [[SIGNS[f.status], f.area, f.check, f.found] for f in findings]
    table(None, ["", "area", "check", "found"], rows, right=set(), stderr=True)
    for finding in findings:
        if finding.mend:
            say(f"\n{SIGNS[finding.status]} {finding.area}, {finding.check}: {finding.found}")
            err.print("\n".join(map(_as_it_is, finding.mend.splitlines())), markup=False)
    err.print()


def _as_it_is(line: str) -> str:
    """A line that can be copied: in one like this, GitHub sees no command but at its beginning."""
    return harmless(line) if line.lstrip().startswith("::") or "##[" in line else line
