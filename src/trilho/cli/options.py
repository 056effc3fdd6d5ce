"""Options that several verbs share; each can be given by an environment variable as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trilho.errors import UsageError

Config = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="TRILHO_CONFIG", help="The pipeline file."),
]
RunFolder = Annotated[
    Path,
    typer.Option("--run", envvar="TRILHO_RUN", help="Folder for this run's documents."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        envvar="TRILHO_SET",
        help="Replace a value of the pipeline, such as model.params.max_iter=50; may be repeated.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing changed.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

CONFIG = Path("pipeline.yaml")
RUN = Path(".trilho/run")


def parse_overrides(given: list[str] | None) -> dict[str, Any]:
    """Turn `KEY=VALUE` texts into keys and YAML values."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    overrides: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, not {text!r}.")
        try:
            overrides[key.strip()] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise UsageError(f"--set {key}: {value!r} is not a YAML value.") from None
    return overrides
