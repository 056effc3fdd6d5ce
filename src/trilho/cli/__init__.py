"""The verbs: parse, call one function, print, set the exit code."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated

import typer

from trilho import __version__
from trilho.cli import doctor, drill, infra, model, registry, score, service

app = typer.Typer(
    help="The rail that carries a scikit-learn model from a pull request to production.",
    epilog="Exit codes: 0 done, 1 our bug, 2 wrong usage or configuration, 3 data rejected, "
    "4 gate said REJECT, 5 gate said HOLD, 6 deployment failed and was rolled back, "
    "7 AWS or network unavailable, 8 the doctor found something to mend.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trilho {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if debug:
        os.environ["TRILHO_DEBUG"] = "1"


model.add(app)
registry.add(app)
service.add(app)
score.add(app)
drill.add(app)
infra.add(app)
doctor.add(app)


def main() -> None:
    """Run the command line; every failure ends in one clear message and its exit code."""
    from rich.markup import escape

    from trilho.cli.console import debugging, err, show_error
    from trilho.errors import TrilhoError, UsageError

    # OpenMP's threads spin while they wait for each other; on a runner that shares its cores that
    # made a fit seven times slower. Read when the numeric libraries are imported, so set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # What the libraries make as they are imported stays; to look through it for garbage again and
    # again took a sixth of the time of importing it.
    gc.set_threshold(50_000)
    try:
        app()
    except TrilhoError as error:
        if debugging():
            raise
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("\nStopped.")
        sys.exit(130)
    except OSError as error:
        if debugging():
            raise
        what = f" {error.filename}" if error.filename else ""
        show_error(UsageError(f"Cannot use{what}: {error.strerror or error}."))
        sys.exit(UsageError.exit_code)
    except Exception as error:
        if debugging():
            raise
        err.print(
            f"[red bold]bug:[/] {type(error).__name__}: {escape(str(error))}\n"
            "This is a defect of trilho. Run again with `trilho --debug …` and report the output.",
            markup=True,
        )
        sys.exit(1)
