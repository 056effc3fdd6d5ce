"""The verb that predicts whole files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trilho.cli.console import emit, err, say, step
from trilho.cli.model import job
from trilho.cli.options import CONFIG, RUN, Config, Force, Json
from trilho.cli.service import PANEL, VERSION
from trilho.errors import UsageError

if TYPE_CHECKING:
    from trilho.serving.predictor import Predictor


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(rich_help_panel=PANEL)(score)


def score(
    data: Annotated[
        str,
        typer.Argument(metavar="IN", help="CSV, gzipped CSV or Parquet; or s3://bucket/key."),
    ],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Where the predictions go, of the same kinds.")
    ],
    config: Config = CONFIG,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle's folder, instead of a version.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(envvar="TRILHO_VERSION", help=f"{VERSION} Default: champion."),
    ] = None,
    chunk: Annotated[
        int, typer.Option(min=1, help="Rows in memory at a time.", metavar="ROWS")
    ] = 20_000,
    force: Force = False,
    json: Json = False,
) -> None:
    """Predict each row of a file, with the very numbers of the service, in bounded memory.

    OUT appears when it is complete. Killed, the same command goes on where it was.
    """
    from trilho.scoring import score as run

    with step("model") as now:
        predictor = _predictor(config, bundle, version)
        identity = predictor.identity
        named = f"{identity.name} v{identity.version}" if identity.version else identity.name
        now.close(f"{named}, {identity.digest[:19]}")
    with step("score") as now, _bar() as progress:
        done = run(predictor, data, out, chunk=chunk, overwrite=force, progress=progress)
        now.close(f"{done.rows:,} rows to {out}")
    if done.resumed_rows:
        say(f"{done.resumed_rows:,} of them were scored already, before an earlier run ended.")
    if json:
        emit(done)


def _predictor(config: Path, folder: Path | None, version: str | None) -> Predictor:
    """Load the model as the service does: verified, and its golden rows repeated."""
    from trilho.serving import source
    from trilho.serving.predictor import load
    from trilho.serving.settings import Settings

    if folder is not None:
        if version is not None:
            raise UsageError("Give --bundle or --version (TRILHO_VERSION), not both.")
        wanted = Settings(folder=folder)
    else:
        from trilho.registry import resolve

        registry = job(config, RUN).registry
        chosen = resolve(registry, version or "champion")
        registry.refuse_quarantined(chosen.digest)
        wanted = Settings(uri=registry.store.url, digest=chosen.digest, version=str(chosen.number))
    with source.fetch(wanted) as (place, manifest, digest):
        return load(place, manifest, digest, wanted.version)


@contextmanager
def _bar() -> Iterator[Callable[[float, int], None]]:
    """Show how far it is, with the time that is left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  {task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task("score", total=1.0, rows=0)
        yield lambda share, rows: bar.update(task, completed=share, rows=rows)
