"""Options that several verbs share; each can be given by an environment variable as well.

An empty variable counts as not given: a workflow's inputs are often empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trilho.errors import UsageError

if TYPE_CHECKING:
    from trilho.config import Overrides


def switch(variable: str) -> Callable[[bool], bool]:
    """Return a flag's callback: where the flag is not given, the variable says `true` or `false`.

    Not by typer's own way, which takes anything from "t" to "1" and is silent about the rest.
    """

    def chosen(given: bool) -> bool:
        value = os.environ.get(variable, "")
        if value not in ("", "true", "false"):
            raise UsageError(f"{variable} must be true or false, not {value!r}.")
        return given or value == "true"

    return chosen


def _lines(given: list[str] | None) -> list[str]:
    """The texts given, else the lines of TRILHO_SET; typer's own way would split at blanks."""
    lines = given or os.environ.get("TRILHO_SET", "").splitlines()
    return [line for line in lines if line.strip()]


Config = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="TRILHO_CONFIG", help="The pipeline file."),
]
RunFolder = Annotated[
    Path,
    typer.Option("--run", envvar="TRILHO_RUN", help="Folder for this run's documents."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        callback=_lines,
        help="Replace a value of the pipeline, such as model.params.max_iter=50; may be repeated. "
        "\\[env var: TRILHO_SET, one a line]",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", envvar="TRILHO_DATA", help="Another dataset than data.path."),
]
Params = Annotated[
    str | None,
    typer.Option(
        "--params",
        metavar="JSON",
        envvar="TRILHO_PARAMS",
        help="Parameters of the model, laid over model.params, such as '{\"max_iter\": 50}'.",
    ),
]
Search = Annotated[
    str | None,
    typer.Option(
        "--search",
        metavar="on|off",
        envvar="TRILHO_SEARCH",
        help="Search hyper-parameters or not, whatever model.search.enabled says; `pipeline`: "
        "as it says.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        callback=switch("TRILHO_FORCE"),
        help="Do it again even if nothing changed. \\[env var: TRILHO_FORCE]",
    ),
]
AllowHold = Annotated[
    bool,
    typer.Option(
        "--allow-hold",
        callback=switch("TRILHO_ALLOW_HOLD"),
        help="Take HOLD for a yes. \\[env var: TRILHO_ALLOW_HOLD]",
    ),
]
RequireAttestation = Annotated[
    bool,
    typer.Option(
        "--require-attestation",
        callback=switch("TRILHO_REQUIRE_ATTESTATION"),
        help="Refuse a bundle that no workflow of this repository attested; takes `gh`. "
        "\\[env var: TRILHO_REQUIRE_ATTESTATION]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

CONFIG = Path("pipeline.yaml")
RUN = Path(".trilho/run")
SEARCH = {None: None, "pipeline": None, "on": True, "off": False}


def overrides(
    settings: list[str] | None, data: str | None, params: str | None, search: str | None
) -> Overrides:
    """Turn what was given beside the pipeline file into one record.

    Raises
    ------
    UsageError
        Naming the option and the variable that cannot be read.
    """
    from trilho.config import Overrides

    pairs: dict[str, str] = {}
    for text in settings or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set (TRILHO_SET, one a line) takes KEY=VALUE, not {text!r}.")
        pairs[key.strip()] = value
    if search not in SEARCH:
        raise UsageError(f"--search (TRILHO_SEARCH) takes on or off, not {search!r}.")
    return Overrides(
        settings=pairs,
        data=data,
        params=_parameters(params) if params else {},
        search=SEARCH[search],
    )


def _parameters(text: str) -> dict[str, Any]:
    import msgspec

    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"--params (TRILHO_PARAMS) takes a JSON object, not {text!r}: {error}.",
            hint='Write names in double quotes, such as {"max_iter": 50}.',
        ) from None
