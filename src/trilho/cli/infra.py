"""The verbs that make, show and remove what runs the rail on AWS."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trilho.cli.console import Step, emit, err, say, step, table
from trilho.cli.model import job
from trilho.cli.options import CONFIG, RUN, Config, Json
from trilho.errors import UsageError

if TYPE_CHECKING:
    from trilho.infra.stack import Change

PANEL = "Run a model"
KEPT = ("AWS::S3::Bucket", "AWS::IAM::OIDCProvider")  # the templates retain them
ACTIONS = {"Add": "+ add", "Modify": "~ change", "Remove": "- remove", "Import": "> take over"}

Kind = Annotated[Literal["bootstrap", "service"], typer.Argument(help="Which of the two stacks.")]
Name = Annotated[
    str, typer.Option("--name", help="Begins the names of both stacks, and of what is in them.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Make, show and remove what runs the rail on AWS (infra/).",
        rich_markup_mode="rich",
    )
    for verb in (up, status, down, image):
        group.command()(verb)
    app.add_typer(group, name="infra", rich_help_panel=PANEL)


def up(
    kind: Kind,
    name: Name = "trilho",
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            metavar="KEY=VALUE",
            help="A parameter of the stack; may be repeated. infra/README.md lists them.",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the templates are.")] = Path("infra"),
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring a stack up to its template: show what would change, ask, do it.

    bootstrap: bucket, image repository, log group, the two identities. service: load balancer, ECS
    service, alarms, dashboard. Unchanged stacks are left alone. Ends with the lines that tell
    GitHub of it.
    """
    from trilho.infra.up import lines
    from trilho.infra.up import plan as work_out

    with step("plan") as now:
        now.tell(f"asking CloudFormation about {name}-{kind}")
        plan = work_out(kind, name, given or [], folder=folder)
        changes = plan.changes.changes if plan.changes else []
        if changes:
            now.close(f"{plan.stack.name}: {len(changes)} changes")
        else:
            now.close(f"{plan.stack.name} is as {kind}.yaml says", "same")
    for note in plan.notes:
        say(f"  {note}")
    state = plan.state
    if plan.changes is not None:
        _show(changes)
        if not _agreed(yes, "Make these changes?", plan.discard):
            return
        with step("apply") as now:
            try:
                state = plan.apply(_events(now))
            except KeyboardInterrupt:
                say("CloudFormation goes on by itself: `trilho infra status` shows how far it is.")
                raise
            now.close(f"{plan.stack.name}: {state.status}")
    assert state is not None
    told = lines(kind, state)
    if json:
        emit({"stack": plan.stack.name, "changes": changes, "outputs": state.outputs, "run": told})
        return
    _show_outputs(state.outputs)
    err.print("\nTell GitHub:", style="bold")
    sys.stdout.write("\n".join(told) + "\n")


def image(
    repository: Annotated[
        str,
        typer.Option(envvar="TRILHO_IMAGE_REPOSITORY", help="HOST/NAME of the image repository."),
    ],
    config: Config = CONFIG,
    version: Annotated[
        str | None,
        typer.Option(
            envvar="TRILHO_VERSION",
            help="The version that it is to serve; one that only scikit-learn can serve takes the "
            "larger image.",
        ),
    ] = None,
    architecture: Annotated[
        Literal["ARM64", "X86_64"] | None,
        typer.Option(
            help="The tasks' processor; default: the service's, ARM64 before there is one."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the Dockerfile is.")] = Path(),
    json: Json = False,
) -> None:
    """Print the serving image of this code by digest, built and pushed if it is a new one.

    Its tag is the digest of the Dockerfile, the lock and the source that it copies: a new model
    needs no new image.
    """
    from trilho import github
    from trilho.infra import image as images
    from trilho.registry import resolve

    work = job(config, RUN)
    target: images.Target = "compiled"
    if version and work.registry.read_manifest(resolve(work.registry, version).digest).serving != (
        "compiled"
    ):
        target = "sklearn"
    with step("image") as now:
        if architecture is None:
            architecture = images.architecture_of(work.config.deploy)
        made = images.provide(
            repository, folder, target, architecture or "ARM64", progress=now.keep
        )
        now.close(f"{made.tag} {'built and pushed' if made.built else 'is there'}")
    github.set_output("image", made.name)
    if json:
        emit(made)
    else:
        sys.stdout.write(f"{made.name}\n")


def status(name: Name = "trilho", json: Json = False) -> None:
    """Show both stacks: how they are, since when, and their outputs."""
    from trilho.infra.stack import Stack

    stacks = [Stack(f"{name}-{kind}") for kind in ("bootstrap", "service")]
    found = [(stack.name, stack.state()) for stack in stacks]
    if json:
        emit(dict(found))
        return
    rows = [
        [
            stack,
            state.status if state else "does not exist",
            f"{state.changed:%Y-%m-%d %H:%M}" if state and state.changed else "–",
            (state.reason or "") if state else f"trilho infra up {stack.rsplit('-', 1)[-1]}",
        ]
        for stack, state in found
    ]
    table(None, ["stack", "status", "since (UTC)", ""], rows, right=set())
    for stack, state in found:
        if state and state.outputs:
            err.print(f"\n{stack}", style="bold")
            _show_outputs(state.outputs)


def down(
    kind: Kind,
    name: Name = "trilho",
    delete_bucket: Annotated[
        str | None,
        typer.Option(
            "--delete-bucket",
            metavar="BUCKET",
            help="Delete the registry's bucket too, with every model in it. Name it.",
        ),
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete a stack: show what would go, ask, do it. The bucket stays unless you name it."""
    from trilho.infra import teardown
    from trilho.infra.stack import Stack

    stack = Stack(f"{name}-{kind}")
    state = stack.state()
    if kind == "service" and delete_bucket:
        raise UsageError("--delete-bucket goes with `trilho infra down bootstrap`.")
    if kind == "bootstrap" and Stack(f"{name}-service").state() is not None:
        raise UsageError(
            f"The stack {name}-service stands on {stack.name}.",
            hint="Run `trilho infra down service` first.",
        )
    if delete_bucket:
        teardown.check_bucket(delete_bucket, name, state)
    if state is None and not delete_bucket:
        say(f"There is no stack {stack.name}.")
        return
    resources = stack.resources() if state else []
    if resources:
        _show_leaving(resources)
    keys = teardown.user_keys(physical for _, type, physical in resources if type.endswith("User"))
    for user, known in keys.items():
        if known:
            say(f"  {user} has {len(known)} access key{'s' * (len(known) > 1)}, deleted with it.")
    if delete_bucket:
        objects, size = teardown.count(delete_bucket)
        say(
            f"  The bucket {delete_bucket} holds {objects:,} objects, {size / 1e6:,.1f} MB: "
            "every model, its history, all predictions. They are lost for good."
        )
    if not _agreed(yes, "Delete all this?", lambda: None):
        return
    with step("delete") as now:
        tell = _events(now)
        teardown.delete_keys(keys)
        stack.delete(tell)
        if delete_bucket:
            teardown.delete_bucket(delete_bucket, tell)
        kept = [id for _, type, id in resources if type in KEPT and id != delete_bucket]
        now.close(f"{stack.name} is gone" + (f"; kept: {', '.join(kept)}" if kept else ""))
    if json:
        emit({"stack": stack.name, "deleted": True, "kept": kept})


def _show(changes: list[Change]) -> None:
    from trilho.infra.stack import short

    rows = [
        [
            ACTIONS.get(change.action, change.action),
            change.resource,
            short(change.type),
            {"True": "REPLACED", "Conditional": "may be replaced"}.get(change.replacement, ""),
            ", ".join(change.properties),
        ]
        for change in changes
    ]
    columns = ["action", "resource", "type", "replacement", "because of"]
    table(None, columns, rows, right=set(), stderr=True)


def _show_leaving(resources: list[tuple[str, str, str]]) -> None:
    from trilho.infra.stack import short

    rows = [
        ["kept" if type in KEPT else "- remove", logical, short(type), physical.rsplit("/", 1)[-1]]
        for logical, type, physical in resources
    ]
    table(None, ["action", "resource", "type", "name"], rows, right=set(), stderr=True)


def _show_outputs(outputs: dict[str, str]) -> None:
    width = max(len(key) for key in outputs)
    for key, value in sorted(outputs.items()):  # no table: values are there to be copied
        err.print(f"{key:<{width}}  {value}", markup=False)


def _agreed(yes: bool, question: str, otherwise: Callable[[], Any]) -> bool:
    """Ask, unless told not to; do `otherwise` when the answer is no or cannot be given."""
    if yes:
        return True
    if not _somebody_is_there():
        otherwise()
        raise UsageError(
            "Nothing was changed: there is nobody to ask.", hint="Run it again with --yes."
        )
    if typer.confirm(question, err=True):
        return True
    otherwise()
    say("Nothing was changed.")
    return False


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _events(now: Step) -> Callable[[str], None]:
    """Show progress as the step's status, and keep the lines that tell of an end."""

    def progress(line: str) -> None:
        # what only begins is shown as long as it lasts
        (now.tell if "_IN_PROGRESS" in line else now.keep)(line)

    return progress
