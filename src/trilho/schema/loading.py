"""A pandera schema from its file; what pandera would pass over in silence is an error here."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa
import yaml  # type: ignore[import-untyped]
from pandera.io.pandas_io import deserialize_schema

from trilho.errors import Place, UsageError, nearest

Lines = dict[tuple[str, ...], int]  # path of keys to line
_TABLE_KEYS = [
    *("schema_type", "version", "api", "dataframe_library", "name", "title", "description"),
    *("columns", "checks", "index", "multiindex", "dtype", "coerce", "strict", "ordered"),
    *("unique", "report_duplicates", "unique_column_names", "add_missing_columns"),
    *("drop_invalid_rows", "metadata"),
]
_COLUMN_KEYS = [
    *("name", "title", "description", "dtype", "nullable", "unique", "coerce", "required"),
    *("regex", "checks", "default", "report_duplicates", "drop_invalid_rows"),
]
_ALIASES = ["eq", "ne", "gt", "ge", "lt", "le", "between"]


def load(path: str) -> pa.DataFrameSchema:
    """Read a schema.

    Parameters
    ----------
    path
        A `.yaml` in pandera's form, or a `.py` that defines `schema`: a `DataFrameSchema`, or a
        `DataFrameModel` class. Columns that the schema does not name are refused unless it sets
        `strict` itself (pandera's own default lets them pass).

    Raises
    ------
    UsageError
        Naming file and line: no such file, not YAML, unknown keys or checks, wrong dtypes, or a
        schema that would change the data instead of judging it.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(
            f"The schema {path} does not exist.",
            hint="`trilho init` drafts one from the data; data.schema in pipeline.yaml names it.",
        )
    match file.suffix:
        case ".yaml" | ".yml":
            schema = _from_yaml(file, path)
        case ".py":
            schema = _from_python(file, path)
        case _:
            raise UsageError(f"The schema {path} must be a .yaml or a .py file.")
    _refuse_changes(schema, path)
    # A dataset has rows, no index; schemas drafted by pandera check one all the same.
    schema.index = None
    return schema


def sensitive(schema: pa.DataFrameSchema, path: str) -> list[str]:
    """Return the columns that the schema marks as sensitive, for the bundle's signature.

    In YAML by `metadata: {sensitive: [name, ...]}` of the table, in Python also by
    `Column(metadata={"sensitive": True})`.

    Raises
    ------
    UsageError
        The mark names a column that the schema does not have, or is no list.
    """
    named = (schema.metadata or {}).get("sensitive", [])
    if not isinstance(named, list):
        raise UsageError(f"{path}: metadata.sensitive must be a list of columns.")
    known = list(schema.columns)
    for name in named:
        if name not in known:
            raise UsageError(
                f"{path}: metadata.sensitive names '{name}', which is no column of the "
                f"schema{nearest(str(name), known)}."
            )
    marked = [n for n, c in schema.columns.items() if (c.metadata or {}).get("sensitive") is True]
    return sorted({*named, *marked})


def _from_yaml(file: Path, path: str) -> pa.DataFrameSchema:
    values, lines = _read_yaml(file, path)
    if not isinstance(values, dict) or not isinstance(values.get("columns"), dict):
        raise UsageError(
            f"{path} must hold 'columns': a column name, then keys such as 'dtype', for each.",
            hint="See docs/data.md for an example.",
            places=(Place(path),),
        )

    def place_of(*keys: Any) -> Place:
        return Place(path, lines.get(tuple(map(str, keys))))

    _known(values, _TABLE_KEYS, place_of)
    columns = values["columns"]
    for name, column in columns.items():
        place = place_of("columns", name)
        if not isinstance(name, str):
            raise UsageError(
                f"{place}: the column name {name!r} is not text to YAML; quote it.", places=(place,)
            )
        if not isinstance(column, dict):
            raise UsageError(
                f"{place}: columns.{name} must hold keys such as 'dtype: int64'.", places=(place,)
            )
        known = [*_COLUMN_KEYS, *_check_names()]
        _known(column, known, place_of, "columns", name)
        _known(_nested_checks(column), _check_names(), place_of, "columns", name, "checks")
        _build({"columns": {name: column}}, f"{place}: columns.{name}", place)
    _known(_nested_checks(values), _check_names(), place_of, "checks")
    values.setdefault("strict", True)
    return _build(values, path, Place(path))


def _read_yaml(file: Path, path: str) -> tuple[Any, Lines]:
    """Return the values, exactly as pandera reads them, and the line of each key."""
    lines: Lines = {}
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if repeated := _find_lines(node, (), lines):
            raise UsageError(
                f"{Place(path, repeated[1])} repeats the key '{repeated[0]}'.",
                places=(Place(path, repeated[1]),),
            )
        return (loader.construct_document(node) if node else None), lines
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text.", places=(Place(path),)) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        place = Place(path, mark.line + 1 if mark else None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UsageError(f"{place} is not valid YAML: {problem}.", places=(place,)) from None


def _find_lines(node: Any, parents: tuple[str, ...], lines: Lines) -> tuple[str, int] | None:
    """Note the line of each key; return the first key that its mapping repeats, if any."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        path, line = (*parents, str(key.value)), key.start_mark.line + 1
        if path in lines:
            return str(key.value), line
        lines[path] = line
        if repeated := _find_lines(value, path, lines):
            return repeated
    return None


def _build(values: dict[str, Any], where: str, place: Place) -> pa.DataFrameSchema:
    try:
        schema: pa.DataFrameSchema = deserialize_schema(deepcopy(values))  # type: ignore[no-untyped-call]
        for column in schema.columns.values():
            for check in column.checks:
                check(pd.Series([], dtype=object))  # a bad pattern shows only when it is run
        return schema
    except Exception as error:  # pandera raises nearly every class there is
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{where}: pandera cannot use this: {reason.rstrip('.')}.",
            hint="See https://pandera.readthedocs.io for dtypes and checks.",
            places=(place,),
        ) from None


def _check_names() -> list[str]:
    return [*pa.Check.CHECK_FUNCTION_REGISTRY, *pa.Check.REGISTERED_CUSTOM_CHECKS, *_ALIASES]


def _nested_checks(section: dict[str, Any]) -> list[str]:
    """The names in a `checks:` section, which is a mapping or a list with `options`."""
    match section.get("checks"):
        case dict() as named:
            return [str(name) for name in named]
        case list() as listed:
            options = [c.get("options") or {} for c in listed if isinstance(c, dict)]
            return [str(o.get("check_name", "(unnamed)")) for o in options]
    return []


def _known(
    keys: Iterable[Any], known: list[str], place_of: Callable[..., Place], *parents: str
) -> None:
    """Refuse unknown keys, which pandera ignores: a misspelt check would never run."""
    for key in keys:
        if key not in known:
            place = place_of(*parents, key)
            raise UsageError(
                f"{place}: {'.'.join([*parents, str(key)])} is neither a key nor a check of "
                f"pandera{nearest(str(key), known)}",
                places=(place,),
            )


def _from_python(file: Path, path: str) -> pa.DataFrameSchema:
    name = "trilho_schema_" + hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pandera looks up a model's annotations there
    try:
        spec.loader.exec_module(module)
        found = getattr(module, "schema", None)
        if found is None:
            models = [v for v in vars(module).values() if _is_model(v) and v.__module__ == name]
            found = models[0] if len(models) == 1 else None
        schema: Any = found.to_schema() if found is not None and _is_model(found) else found
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        place = Place(path, line)
        raise UsageError(f"{place}: {type(error).__name__}: {error}.", places=(place,)) from None
    if not isinstance(schema, pa.DataFrameSchema):
        raise UsageError(
            f"{path} must define 'schema', a pandera DataFrameSchema or DataFrameModel for pandas.",
            places=(Place(path),),
        )
    own: pa.DataFrameSchema = deepcopy(schema)
    # `strict=False` and pandera's default look the same in the object, but not in the source.
    if not own.strict and not re.search(r"\bstrict\b", file.read_text(encoding="utf-8")):
        own.strict = True
    return own


def _is_model(value: Any) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, pa.DataFrameModel)
        and value is not pa.DataFrameModel
    )


def _refuse_changes(schema: pa.DataFrameSchema, path: str) -> None:
    """Refuse what would repair data on the way: the model would still learn the raw file."""
    found = [
        *(["parsers"] if schema.parsers else []),
        *(["drop_invalid_rows"] if schema.drop_invalid_rows else []),
        *(["add_missing_columns"] if schema.add_missing_columns else []),
        *(["strict: filter"] if schema.strict == "filter" else []),
    ]
    for name, column in schema.columns.items():
        for key in ("parsers", "drop_invalid_rows"):
            found += [f"columns.{name}.{key}"] if getattr(column, key) else []
        found += [f"columns.{name}.default"] if column.default is not None else []
    if found:
        raise UsageError(
            f"{path}: {found[0]} changes data; a schema may only judge it.",
            hint="Remove it here; prepare the data before, or in the model's pipeline.",
            places=(Place(path),),
        )
