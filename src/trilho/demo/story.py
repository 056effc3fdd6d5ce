"""The demo's story: a first model goes live, a worse one is rejected, a better one takes over."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from trilho import bundle
from trilho.demo import background, cloud, engine, ministack
from trilho.demo.keeper import CLUSTER, SERVICE, State
from trilho.errors import TrilhoError, UsageError

# The example's own settings are the better model; these are the two that it is measured against.
PLAIN = ["model.params.max_iter=25", "model.params.max_features=1.0"]
WORSE = ["model.params.max_iter=2", "model.params.max_leaf_nodes=2"]
EXIT_REJECT = 4

out = Console(stderr=True, highlight=False, soft_wrap=True)


def run(folder: Path) -> None:
    """Tell the whole story; the service and the embedded AWS stay when it ends.

    From here on this process and its children know no AWS but the embedded one.

    Raises
    ------
    UsageError
        This folder holds no pipeline.
    TrilhoError
        A step did not end as the story has it.
    """
    if not Path("pipeline.yaml").exists():
        raise UsageError(
            "There is no pipeline.yaml here.", hint="Run the demo in a checkout of Trilho."
        )
    started = time.monotonic()
    _isolate()
    folder = folder.resolve()
    if end(folder):
        out.print("[dim]stopped what an earlier demo left running[/]")
    # the registry starts empty; the runs stay, so that unchanged inputs are recognised
    shutil.rmtree(folder / "aws", ignore_errors=True)
    (folder / "service.log").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        state = _start(folder)
        _tell(state, folder)
    except BaseException:
        end(folder)
        raise
    _summary(state, folder, time.monotonic() - started)


def stop(folder: Path) -> None:
    """End the service and the embedded AWS, and their containers."""
    if end(folder.resolve()):
        out.print("The demo's service and its AWS are stopped.")
    else:
        out.print("Nothing of the demo is running.")


def end(folder: Path) -> bool:
    """Stop all of it, containers included; False when nothing ran."""
    state = background.read(folder)
    ended = background.stop(folder)
    if state is not None and state.engine:
        engine.clear(state.engine, cloud.CLUSTER_ARN)
    return ended


def _start(folder: Path) -> State:
    """Start the embedded AWS, with containers where that is possible, and what lives in it."""
    _heading("An AWS of our own")
    found: engine.Engine | None = None
    reason = ""
    with out.status("looking for a container engine") as status:
        try:
            found = engine.find(
                Path.cwd(), cloud.IMAGE, lambda line: status.update(f"image: {escape(line[:100])}")
            )
        except engine.NoEngineError as error:
            reason = str(error)
        status.update("starting MiniStack, the embedded AWS")
        state = background.start(folder, *(found or ()))
        _connect(state)
        cloud.create(inside(state) if found else {}, containers=found is not None)
    out.print(f"[green]✓[/] MiniStack plays S3 and ECS at {state.aws_url}")
    out.print(f"[green]✓[/] bucket {cloud.BUCKET}, cluster {CLUSTER}, service {SERVICE}")
    if found:
        out.print(f"[green]✓[/] ECS runs the image of the Dockerfile in containers ({found.host})")
    else:
        out.print(f"[yellow]![/] no containers here: {escape(reason)}")
        out.print(
            "  So the task definition's command runs as a local process, with exactly its "
            "environment."
        )
    return state


def _tell(state: State, folder: Path) -> None:
    _heading("A first model, with plain settings, goes live as version 1")
    run = folder / "1"
    _trilho("validate", run=run)
    _trilho("train", run=run, settings=PLAIN)
    _trilho("evaluate", run=run, settings=PLAIN)
    _trilho("gate", run=run, settings=PLAIN)
    _trilho("report", run=run, settings=PLAIN)
    _trilho("publish", run=run, settings=PLAIN)
    if state.engine:
        cloud.scale(1)
    _trilho("deploy", "--version", "1", run=run)
    first = _serving(state)

    _heading("A worse model, all steps in one go: the gate must reject it")
    _trilho("retrain", run=folder / "worse", settings=WORSE, expected=EXIT_REJECT)
    if _serving(state) != first:
        raise TrilhoError("The service changed although the gate said REJECT.")
    out.print("[green]✓[/] exit code 4, and version 1 still serves")

    _heading("The example's own settings: a better model takes over as version 2")
    run = folder / "2"
    _trilho("retrain", run=run)
    _trilho("publish", run=run)
    _trilho("deploy", "--version", "2", run=run)
    _trilho("smoke")
    if _serving(state) == first:
        raise TrilhoError("The service still answers with version 1.")
    _trilho("models")


def _trilho(
    *arguments: str, run: Path | None = None, settings: list[str] | None = None, expected: int = 0
) -> None:
    """Run a verb as a workflow does: a process, told by arguments and environment only."""
    command = list(arguments)
    if run is not None:
        command += ["--run", os.path.relpath(run)]
    for setting in settings or []:
        command += ["--set", setting]
    out.print(f"[bold cyan]$ trilho {escape(shlex.join(command))}[/]")
    entry = "import sys; from trilho.cli import main; sys.argv[0] = 'trilho'; main()"
    done = subprocess.run([sys.executable, "-c", entry, *command], check=False)  # noqa: S603
    if done.returncode != expected:
        raise TrilhoError(
            f"`trilho {arguments[0]}` ended with exit code {done.returncode}, "
            f"expected {expected}: the demo ends here."
        )


def _isolate() -> None:
    """Leave no way from here to a real account, a real registry or a real run's outputs."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GITHUB_", "MLFLOW_", "TRILHO_")) and name != "TRILHO_DEBUG":
            del os.environ[name]
    os.environ.update(
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        NO_PROXY="127.0.0.1,localhost",
        no_proxy="127.0.0.1,localhost",
    )


def _connect(state: State) -> None:
    """Send this process and the verbs to the demo's AWS, registry and service."""
    os.environ.update(ministack.client_environment(state.aws_url))
    os.environ.update(
        TRILHO_REGISTRY=cloud.REGISTRY,
        TRILHO_CLUSTER=CLUSTER,
        TRILHO_SERVICE=SERVICE,
        TRILHO_SERVICE_URL=state.service_url,
    )


def inside(state: State) -> dict[str, str]:
    """What a container is told of the embedded AWS."""
    environment = ministack.client_environment(state.inside_url or "")
    # MiniStack replaces the general variable by an address that podman does not know
    environment["AWS_ENDPOINT_URL_S3"] = environment.pop("AWS_ENDPOINT_URL")
    return environment


def _serving(state: State) -> str:
    """The digest of the model that answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{state.service_url}/model", timeout=10) as answer:
        return str(json.load(answer)["digest"])


def _heading(text: str) -> None:
    out.print(f"\n[bold]{text}[/]")


def _summary(state: State, folder: Path, seconds: float) -> None:
    golden = bundle.read_golden(folder / "2" / "bundle")
    row = msgspec.json.encode(golden.rows[0]).decode()
    report = os.path.relpath(folder / "2" / "report")
    out.print(
        f"\n[bold green]Done in {seconds:.0f} s.[/] Version 2 is the champion and serves.\n\n"
        f"The report    {report}.md\n"
        f"              {report}.html\n"
        f"of the reject {os.path.relpath(folder / 'worse' / 'report')}.html\n"
        f"The service   {state.service_url}\n"
    )
    out.print("Try it:")
    out.print(
        f"curl -s {state.service_url}/invocations -H 'Content-Type: application/json' "
        f"-d {shlex.quote(row)}\n",
        markup=False,
        highlight=False,
    )
    out.print("Stop it:      make demo-stop   (or: trilho demo --stop)")
