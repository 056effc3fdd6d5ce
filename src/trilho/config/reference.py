"""The reference of `pipeline.yaml`, made from its types: a page and a JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from trilho.config.types import Pipeline, Section, section_of


def json_schema() -> str:
    """Return the JSON Schema of `pipeline.yaml`, for editors."""
    schema = Pipeline.model_json_schema(by_alias=True)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema
    return json.dumps(schema, indent=2) + "\n"


def reference() -> str:
    """Return docs/pipeline.md: every key with its type, default and meaning."""
    lines = [
        "# `pipeline.yaml`",
        "",
        "What to train, how to judge it, where to ship it. Unknown keys are refused. Values may",
        "use `${NAME}` or `${NAME:-default}` to read the environment. This page is made from the",
        "types in `src/trilho/config/types.py` by `make schema`.",
        "",
    ]
    seen: set[type[Section]] = set()

    def section(model: type[Section], title: str) -> None:
        if model in seen:
            return
        seen.add(model)
        lines.extend([f"## {title}", "", (model.__doc__ or "").strip(), ""])
        lines.extend(["| key | type | default | meaning |", "|---|---|---|---|"])
        deeper: list[tuple[type[Section], str]] = []
        for name, field in model.model_fields.items():
            key = field.alias or name
            inner = section_of(field.annotation)
            if field.is_required():
                default = "required"
            elif isinstance(field.default, Section) or field.default is None:
                default = ""
            else:
                default = f"`{json.dumps(field.default, default=list)}`"
            meaning = " ".join((field.description or "").split())
            kind = _describe(field.annotation)
            path = key if model is Pipeline else f"{title.strip('`')}.{key}"
            if inner is not None:
                meaning = meaning or (inner.__doc__ or "").strip()
                deeper.append((inner, f"`{path}`"))
            lines.append(f"| `{key}` | {kind} | {default} | {meaning} |".replace("||", "|"))
        lines.append("")
        for inner, deeper_title in deeper:
            section(inner, deeper_title)

    section(Pipeline, "the file")
    return "\n".join(lines).rstrip() + "\n"


def _describe(annotation: Any) -> str:
    """A type in words that a reader of YAML knows."""
    words = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any"}
    if annotation in words:
        return words[annotation]
    if annotation is type(None):
        return ""
    origin: Any = getattr(annotation, "__origin__", None)
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if origin is Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if origin is Annotated:
        return _describe(arguments[0])
    if origin is list:
        return f"list of {_describe(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(_describe(a) for a in arguments)}]"
    if origin is dict:
        return f"map of {_describe(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    return " or ".join(dict.fromkeys(d for a in arguments if (d := _describe(a))))


def main() -> None:
    """Write the reference and the JSON Schema into docs/."""
    Path("docs/pipeline.md").write_text(reference(), encoding="utf-8")
    Path("docs/pipeline.schema.json").write_text(json_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
