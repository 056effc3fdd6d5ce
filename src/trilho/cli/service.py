"""The verbs that run a model: on ECS, on this machine, in the demo."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trilho.cli.console import alarm, emit, notice, step, warn
from trilho.cli.model import job
from trilho.cli.options import CONFIG, RUN, Config, Json, RequireAttestation, RunFolder, switch
from trilho.errors import DeploymentError, TrilhoError, UnavailableError, UsageError

if TYPE_CHECKING:
    from trilho import config as settings
    from trilho.deploy.rollout import Deployment
    from trilho.pipeline import Job
    from trilho.registry import Source, Version

PANEL = "Run a model"
VERSION = "3, v3, an alias, or a digest's beginning."


def add(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    for verb in (deploy, smoke, rollback, serve, demo):
        app.command(rich_help_panel=PANEL)(verb)


def deploy(
    config: Config = CONFIG,
    run: RunFolder = RUN,
    version: Annotated[str | None, typer.Option(envvar="TRILHO_VERSION", help=VERSION)] = None,
    image: Annotated[
        str | None,
        typer.Option(
            envvar="TRILHO_IMAGE",
            help="Another image for the serving container, by digest.",
            metavar="IMAGE",
        ),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            callback=switch("TRILHO_MERGED"),
            help="This is what the default branch's inputs make: deploy it only if no newer commit "
            "was pushed, and note that it had its turn. \\[env var: TRILHO_MERGED]",
        ),
    ] = False,
    require_attestation: RequireAttestation = False,
    json: Json = False,
) -> None:
    """Move the ECS service to a version: roll over, smoke-test, champion alias last.

    Without --version it is the version that `trilho publish` made of this run's bundle. Any failure
    puts the old version back, leaves the alias alone, and quarantines the new one.
    """
    from trilho.deploy.rollout import deploy as ship
    from trilho.registry import Source, resolve

    work = job(config, run)
    wanted = _settings(work)
    if merged and (newer := _newer_commit()):
        _superseded(newer, wanted, json)
        return
    chosen = resolve(work.registry, version) if version else work.published()
    if require_attestation:
        _attested(work, chosen)
    with step("deploy") as now, _failure_on_top(work, chosen):
        done = ship(
            work.registry,
            chosen.number,
            wanted,
            registry_url=work.config.registry,
            source=_approved(Source.current()),
            image=image,
            merged=merged,
            progress=now.keep,
        )
        if done.changed or done.promoted:
            now.close(f"version {done.after.version} serves at {done.smoke.url} and is champion")
        else:
            now.close(f"version {done.after.version} serves already", "same")
    _finish(done, json)


def _attested(work: Job, chosen: Version) -> None:
    """Refuse a version that nobody attested, before anything of it is loaded."""
    from trilho.github import attestation
    from trilho.registry import keys

    with step("verify") as now:
        manifest = work.registry.store.get(keys.manifest(chosen.digest)).data
        signer = attestation.verify(manifest, chosen.digest)
        now.close(f"version {chosen.number} was attested by {signer}")


def _approved(source: Source) -> Source:
    """Note who approved this run's deployment, as far as GitHub says."""
    import msgspec

    from trilho.github.approval import approvers

    try:
        found = approvers()
    except TrilhoError as error:
        # no reason to stop: it was approved, or this job would not run
        warn(f"It is not known who approved this deployment: {error.message}")
        return source
    return msgspec.structs.replace(source, approved_by=found) if found else source


def _newer_commit() -> str | None:
    """The commit that was pushed after this run's, as far as GitHub says."""
    from trilho.github.head import newer_commit

    try:
        return newer_commit()
    except TrilhoError as error:
        # no reason to stop: the workflow itself keeps two deployments apart
        warn(f"It is not known whether a newer commit was pushed: {error.message}")
        return None


def _superseded(newer: str, wanted: settings.Deploy, json: bool) -> None:
    """Say that a newer commit's run deploys, and that this one leaves everything as it is."""
    from trilho import github
    from trilho.report import superseded

    message = f"Nothing was deployed: {newer[:12]} was pushed meanwhile, and its own run deploys."
    notice(message)
    github.add_summary(superseded(service=wanted.service, commit=newer))
    github.set_output("outcome", "superseded")
    github.set_output("service-url", wanted.url or "")
    if json:
        emit({"outcome": "superseded", "commit": newer})


def smoke(
    config: Config = CONFIG,
    version: Annotated[str, typer.Option(help=VERSION)] = "champion",
    url: Annotated[
        str | None, typer.Option(help="The service's address; default: deploy.url.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask a running service for the golden rows of a version, and compare."""
    from trilho.deploy.rollout import read_golden
    from trilho.deploy.smoke import checked
    from trilho.deploy.smoke import smoke as ask
    from trilho.registry import resolve

    work = job(config, RUN)
    bounds = work.config.deploy
    chosen = resolve(work.registry, version)
    base = checked(url or (bounds.url if bounds else None))
    with step("smoke") as now:
        now.tell(f"asking {base} for the golden rows of version {chosen.number}")
        found = ask(
            base,
            read_golden(work.registry, chosen.digest),
            chosen.digest,
            timeout=bounds.smoke_timeout_seconds if bounds else 60,
            max_milliseconds=bounds.smoke_max_milliseconds if bounds else 1000,
        )
        now.close(
            f"{found.rows} golden rows right (largest difference "
            f"{found.largest_difference:.1g}), median {found.median_milliseconds:.1f} ms"
        )
    if json:
        emit(found)


def rollback(
    config: Config = CONFIG,
    to: Annotated[
        str | None,
        typer.Option(
            envvar="TRILHO_TO", help="The version to go back to; default: the champion before."
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option(envvar="TRILHO_REASON", help="Why, for the history.")
    ] = "rolled back by hand",
    issue: Annotated[
        bool,
        typer.Option(
            "--issue",
            callback=switch("TRILHO_ISSUE"),
            help="Open an issue on GitHub with the facts, also when it fails. "
            "\\[env var: TRILHO_ISSUE]",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Put an earlier version back: service and alias together; the present one is quarantined."""
    from trilho.deploy.rollback import rollback as go_back
    from trilho.registry import Source, resolve

    work = job(config, RUN)
    wanted = _settings(work)
    target = resolve(work.registry, to) if to else None
    source = Source.current(reason)
    try:
        with step("rollback") as now, _failure_on_top(work, target):
            done = go_back(
                work.registry,
                wanted,
                registry_url=work.config.registry,
                reason=reason,
                to=target.number if target else None,
                source=source,
                progress=now.keep,
            )
            mark = "warn" if done.passed_over else "done"
            now.close(f"version {done.after.version} serves again at {done.smoke.url}", mark)
    except TrilhoError as error:
        # a command that was wrong changed nothing, and is no matter for an issue
        if issue and error.exit_code != UsageError.exit_code:
            _open_issue(work, source, done=None, target=target, failure=error.message)
        raise
    _tell_of_passed_over(done)
    if issue:
        _open_issue(work, source, done=done, target=target)
    _finish(done, json)


def serve(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="A bundle's folder; default: this run's bundle.", metavar="[BUNDLE]"),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="TRILHO_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    run: RunFolder = RUN,
    port: Annotated[
        int, typer.Option(envvar="TRILHO_PORT", help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    workers: Annotated[
        int | None,
        typer.Option(
            envvar="TRILHO_WORKERS", help="Processes that answer; default: the cores there are."
        ),
    ] = None,
) -> None:
    """Answer `/ping` and `/invocations` from a bundle, or from the one that TRILHO_MODEL_URI names.

    The container runs the same service by `python -m trilho.serving`.
    """
    environment = os.environ | {"TRILHO_HOST": host, "TRILHO_PORT": str(port)}
    if workers is not None:
        environment["TRILHO_WORKERS"] = str(workers)
    if bundle is not None or not environment.get("TRILHO_MODEL_URI"):
        folder = bundle or run / "bundle"
        if not (folder / "manifest.json").exists():
            raise UsageError(f"{folder} holds no bundle.", hint="Run `trilho train` first.")
        environment.pop("TRILHO_MODEL_URI", None)
        environment["TRILHO_MODEL_DIR"] = str(folder)
    # A process of its own, so that its numeric libraries start with one thread and it gets signals.
    os.execve(sys.executable, [sys.executable, "-m", "trilho.serving"], environment)  # noqa: S606


def demo(
    stop: Annotated[bool, typer.Option("--stop", help="Stop what the demo left running.")] = False,
) -> None:
    """Take the example the whole way on this machine, with no cloud account."""
    from trilho import demo as rail

    if stop:
        rail.stop()
    else:
        rail.run()


def _settings(work: Job) -> settings.Deploy:
    """The service to deploy to, once it is clear that registry and service can be used."""
    from trilho import pipeline

    if work.config.deploy is None:
        raise UsageError(
            f"{work.config_path} has no 'deploy' section.",
            hint="Name the ECS cluster, the service and its URL there; see docs/pipeline.md.",
        )
    pipeline.check_lasting(work)
    return work.config.deploy


@contextmanager
def _failure_on_top(work: Job, wanted: Version | None) -> Iterator[None]:
    """Put the reason of a failed deployment on top of the job summary."""
    from trilho import github
    from trilho.report import deployment

    champion = work.champion
    try:
        yield
    except (DeploymentError, UnavailableError) as error:
        restored = "serves again" in error.message
        github.add_summary(
            deployment(
                service=_settings(work).service,
                outcome="rolled back" if restored else "failed",
                before=(f"v{champion.version}", champion.digest) if champion else None,
                after=(f"v{wanted.number}", wanted.digest) if wanted else ("the one before", ""),
                reason=error.message,
            )
        )
        raise


def _open_issue(
    work: Job, source: Source, *, done: Deployment | None, target: Version | None, failure: str = ""
) -> None:
    """Tell of a rollback by an issue; trouble with that changes nothing of the outcome."""
    from trilho import github
    from trilho.cli import posting

    try:
        champion = work.champion  # as it was before
        if champion is None:
            return
        before = (f"v{champion.version}", champion.digest)
        after = (f"v{target.number}", target.digest) if target else None
        if done is not None:
            after = (f"v{done.after.version}", done.after.digest or "")
        repeated = after is not None and after[1] == champion.digest
        if repeated and champion.from_version:
            # this very run did it before: its issue is about the version that it came from
            bad = work.registry.version(champion.from_version)
            before = (f"v{bad.number}", bad.digest)
    except TrilhoError as error:
        warn(f"No issue was opened: {error.message}")
        return
    url = posting.issue(
        name=work.config.name,
        service=_settings(work).service,
        before=before,
        after=after,
        source=source,
        failure=failure or None,
        passed_over=done.passed_over if done else None,
        again=not repeated,
    )
    github.set_output("issue-url", url)


def _tell_of_passed_over(done: Deployment) -> None:
    """Raise the alarm when a rollback had to go further back than to the champion before."""
    from trilho import github
    from trilho.report.rollback import alarm as on_top

    if done.passed_over:
        for reason in done.passed_over:
            alarm(reason)
        github.add_summary(f"{on_top(done.passed_over)}\n\n")


def _finish(done: Deployment, json: bool) -> None:
    from trilho import github
    from trilho.report import deployment

    before, after = (
        (f"v{ran.version}" if ran.version else "unnumbered", ran.digest or "")
        for ran in (done.before, done.after)
    )
    answered = (
        f"{done.smoke.rows} golden rows right, median {done.smoke.median_milliseconds:.1f} ms"
    )
    outcome = "deployed" if done.changed or done.promoted else "unchanged"
    github.add_summary(
        deployment(
            service=done.service,
            outcome=outcome,
            before=before if done.before.digest else None,
            after=after,
            smoke=answered,
            details={
                "Service URL": done.smoke.url,
                "Task definition": done.after.task_definition,
                "Took": f"{done.seconds:.0f} s",
            },
        )
    )
    github.set_output("outcome", outcome)
    github.set_output("service-url", done.smoke.url)
    github.set_output("model-version", str(done.after.version or ""))
    github.set_output("model-digest", done.after.digest or "")
    github.set_output("previous-version", str(done.before.version or ""))
    if json:
        emit(done)
