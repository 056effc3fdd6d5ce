"""Read `pipeline.yaml`: fill in the environment, refuse what is unknown, name file and line."""

from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trilho.config.overrides import Overrides
from trilho.config.types import Pipeline, section_of
from trilho.errors import Place, UsageError, nearest

DEFAULT_PATH = Path("pipeline.yaml")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def load(path: Path = DEFAULT_PATH, overrides: Overrides | None = None) -> Pipeline:
    """Read a pipeline file.

    Parameters
    ----------
    path
        The YAML file.
    overrides
        What replaces the file's values.

    Raises
    ------
    UsageError
        Naming file, line and key: file missing, not YAML, unknown or wrong keys, unset variables.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist.",
            hint="Run `trilho init data.csv --target COLUMN` to write one, or pass --config.",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text.", places=(Place(str(path)),)) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(str(path), mark.line + 1 if mark else None)
        problem = (error.problem or "cannot be read").splitlines()[0]
        raise UsageError(f"{place} is not valid YAML: {problem}.", places=(place,)) from None
    except YAMLError as error:
        problem = str(error).splitlines()[0]
        place = Place(str(path))
        raise UsageError(f"{path} is not valid YAML: {problem}.", places=(place,)) from None
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path} must hold keys such as 'name' and 'data'.", places=(Place(str(path)),)
        )
    values = _fill(tree, path)
    if overrides is not None:
        overrides.apply(values)
    try:
        return _without_idle_search(Pipeline.model_validate(values))
    except ValidationError as error:
        raise _explain(error, path, tree) from None


def _without_idle_search(pipeline: Pipeline) -> Pipeline:
    """Leave out a search that is switched off: it decides nothing, the fingerprint included."""
    model = pipeline.model
    if model.search is None or model.search.enabled:
        return pipeline
    return pipeline.model_copy(update={"model": model.model_copy(update={"search": None})})


def _fill(node: Any, path: Path, line: int | None = None) -> Any:
    """Copy the tree as plain Python, with `${NAME}` and `${NAME:-default}` filled in."""
    if isinstance(node, dict):
        lines = getattr(node, "lc", None)
        return {
            (str(k) if isinstance(k, str) else k): _fill(
                v, path, lines.data[k][0] + 1 if lines and k in lines.data else line
            )
            for k, v in node.items()
        }
    if isinstance(node, list):
        return [_fill(v, path, line) for v in node]
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, int):
        return int(node)  # ruamel's number types carry formatting
    if isinstance(node, float):
        return float(node)
    if isinstance(node, date):
        return node.isoformat()  # YAML reads a bare 2015-01-01 as a date
    if not isinstance(node, str):
        return node

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None:
            place = Place(str(path), line)
            raise UsageError(
                f"{place}: the environment variable {name} is not set.",
                hint=f"Set it, or write ${{{name}:-default}}.",
                places=(place,),
            )
        return found

    return VARIABLE.sub(value, str(node))


def _explain(error: ValidationError, path: Path, tree: Any) -> UsageError:
    """Turn pydantic's findings into lines of `file:line: key: what is wrong`."""
    lines, places = [], []
    findings = error.errors(include_url=False, include_context=False)
    # the last part of an unknown or missing key is the key itself, whatever it looks like
    paths = [
        [
            k
            for i, k in enumerate(f["loc"])
            if isinstance(k, int)
            or not _is_tag(k)
            or (i == len(f["loc"]) - 1 and f["type"] in ("extra_forbidden", "missing"))
        ]
        for f in findings
    ]
    for found, keys in zip(findings, paths, strict=True):
        # of a value with several allowed forms, say only what is wrong deepest inside
        if any(len(p) > len(keys) and p[: len(keys)] == keys for p in paths) or (
            found["type"].endswith("_type") and paths.count(keys) > 1
        ):
            continue
        place = Place(str(path), _line(tree, keys))
        key = ".".join(str(k) for k in keys) or "pipeline"
        match found["type"]:
            case "extra_forbidden":
                known = _known(keys[:-1])
                problem = f"is not a known key{nearest(str(keys[-1]), known)}"
                if not problem.endswith("?"):
                    problem += f"; known here: {', '.join(known)}"
            case "missing":
                problem = "is missing"
            case _:
                problem = found["msg"].removeprefix("Value error, ")
                problem = problem[0].lower() + problem[1:]
        line = f"{place}: {key}: {problem}"
        if line not in lines:
            lines.append(line)
            places.append(place)
    return UsageError(
        "\n".join(lines), hint="Every key is described in docs/pipeline.md.", places=tuple(places)
    )


def _is_tag(key: str) -> bool:
    """Tell pydantic's names of union members from keys of the file."""
    return bool(re.match(r"(str|int|float|bool|list\[|function-|constrained-|[A-Z]\w+$)", key))


def _line(tree: Any, keys: list[Any]) -> int | None:
    """The line of the deepest key of the path that stands in the file."""
    line = None
    node = tree
    for key in keys:
        try:
            line = node.lc.data[key][0] + 1
            node = node[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def _known(keys: list[Any]) -> list[str]:
    """The keys that the section at this path knows."""
    section: Any = Pipeline
    for key in keys:
        if isinstance(key, int):
            continue
        for name, field in section.model_fields.items():
            if key in (name, field.alias):
                section = section_of(field.annotation)
                break
        if section is None:
            return []
    return [field.alias or name for name, field in section.model_fields.items()]
