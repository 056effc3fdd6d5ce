"""The templates in `infra/`, and the parameters that they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trilho.errors import UsageError, nearest

Kind = Literal["bootstrap", "service"]
FOLDER = Path("infra")
LARGEST = 51_200  # bytes that CloudFormation takes in a request


@dataclass(frozen=True)
class Parameter:
    """A parameter of a template; one without a default must be given."""

    name: str
    description: str
    default: str | None


@dataclass(frozen=True)
class Template:
    """A template as it is sent, and its parameters."""

    kind: Kind
    body: str
    parameters: dict[str, Parameter]


def read(kind: Kind, folder: Path = FOLDER) -> Template:
    """Read `bootstrap.yaml` or `service.yaml`.

    Raises
    ------
    UsageError
        There is no such file, or it is not a template.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = folder / f"{kind}.yaml"
    try:
        body = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"There is no template {path}.",
            hint="Run this in a copy of the repository, or name the folder with --folder.",
        ) from None
    try:
        found: Any = YAML(typ="rt").load(body)  # the one that bears with tags such as !Sub
        parameters = {
            name: Parameter(name, str(p.get("Description", "")), _text(p.get("Default")))
            for name, p in found["Parameters"].items()
        }
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a CloudFormation template: {error}.") from None
    if len(body.encode()) > LARGEST:
        raise UsageError(f"{path} is too large: CloudFormation takes {LARGEST:,} bytes.")
    return Template(kind, body, parameters)


def parse(given: list[str], template: Template) -> dict[str, str]:
    """Turn `KEY=VALUE` texts into values of the template's parameters.

    Raises
    ------
    UsageError
        Not of that form, or no parameter of the template.
    """
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--param takes KEY=VALUE, not {text!r}.")
        if name not in template.parameters:
            known = list(template.parameters)
            raise UsageError(
                f"The {template.kind} stack has no parameter '{name}'{nearest(name, known)}",
                hint=f"It takes {', '.join(known)}; infra/README.md tells what they do.",
            )
        values[name] = value
    return values


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
