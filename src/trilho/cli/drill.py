"""The verb that rehearses a bad deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from trilho.cli.console import emit, step, table, warn
from trilho.cli.model import job
from trilho.cli.options import CONFIG, RUN, Config, Json
from trilho.cli.service import PANEL
from trilho.errors import DeploymentError, UnavailableError, UsageError


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(rich_help_panel=PANEL)(drill)


def drill(
    config: Config = CONFIG,
    cluster: Annotated[
        str | None,
        typer.Option(envvar="TRILHO_DRILL_CLUSTER", help="ECS cluster of the staging service."),
    ] = None,
    service: Annotated[
        str | None, typer.Option(envvar="TRILHO_DRILL_SERVICE", help="The staging service.")
    ] = None,
    service_url: Annotated[
        str | None,
        typer.Option(envvar="TRILHO_DRILL_SERVICE_URL", help="Where the staging service answers."),
    ] = None,
    json: Json = False,
) -> None:
    """Deploy a broken bundle to a staging service, and time how long the way back takes.

    The service must serve a version already; it serves the same one at the end. The pipeline's own
    service is refused, and the broken bundle is no version of any registry.
    """
    from trilho import github
    from trilho.deploy.drill import drill as rehearse
    from trilho.report.drill import drill as summary

    if not cluster or not service or not service_url:
        raise UsageError(
            "A drill needs a staging service by name: --cluster, --service and --service-url.",
            hint="In a workflow: the variables TRILHO_DRILL_CLUSTER, TRILHO_DRILL_SERVICE and "
            "TRILHO_DRILL_SERVICE_URL.",
        )
    work = job(config, RUN)
    production = work.config.deploy
    if production is None:
        raise UsageError(
            f"{work.config_path} has no 'deploy' section: which service is production, and must "
            "not be touched, is not known.",
            hint="Name it there; see docs/pipeline.md.",
        )
    named = {"cluster": cluster, "service": service, "url": service_url}
    try:
        with step("drill") as now:
            done = rehearse(production.model_copy(update=named), production, progress=now.keep)
            now.close(f"version {done.version} serves again after {done.recovery_seconds:.1f} s")
    except (DeploymentError, UnavailableError) as error:
        github.add_summary(summary(service=service, seconds=None, reason=error.message))
        github.set_output("outcome", "failed")
        raise
    if done.left:
        warn(f"{done.left} is left: this identity may not deregister task definitions.")
    facts = {
        "Serves": f"v{done.version} {done.digest}",
        "Was broken": done.broken,
        "Service URL": done.url,
    }
    seconds = f"{done.recovery_seconds:.1f}"
    rows = {"Time to recover": f"{seconds} s", "Why it did not stay": done.reason, **facts}
    table(f"Drill of {service}", ["", ""], [[*row] for row in rows.items()], set(), stderr=True)
    github.add_summary(
        summary(service=service, seconds=done.recovery_seconds, reason=done.reason, details=facts)
    )
    github.set_output("outcome", "recovered")
    github.set_output("recovery-seconds", seconds)
    github.set_output("model-version", done.version)
    github.set_output("service-url", done.url)
    if json:
        emit(done)
