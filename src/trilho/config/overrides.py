"""What is given beside the pipeline file, and how it replaces what the file says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from trilho.errors import UsageError


@dataclass(frozen=True)
class Overrides:
    """What is given beside the pipeline file; it decides the model as the file does.

    Parameters
    ----------
    settings
        Dotted keys of the pipeline to the YAML texts that replace the file's values.
    data
        Replaces `data.path`.
    params
        Laid over `model.params`, name by name.
    search
        Replaces `model.search.enabled`.
    """

    settings: dict[str, str] = field(default_factory=dict)
    data: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    search: bool | None = None

    def options(self) -> list[str]:
        """Return the options of a verb that give the same again."""
        words = []
        for key, text in self.settings.items():
            words += ["--set", f"{key}={text}"]
        if self.data is not None:
            words += ["--data", self.data]
        if self.params:
            words += ["--params", json.dumps(self.params)]
        if self.search is not None:
            words += ["--search", "on" if self.search else "off"]
        return words

    def apply(self, pipeline: dict[str, Any]) -> None:
        """Put the values into a pipeline file's tree.

        Raises
        ------
        UsageError
            No YAML, a key that lies in no section, or a search that the file does not describe.
        """
        for dotted, text in self.settings.items():
            *parents, last = dotted.split(".")
            _section(pipeline, parents, dotted)[last] = _value(dotted, text)
        if self.data is not None:
            _section(pipeline, ["data"], "data.path")["path"] = self.data
        if self.params:
            _section(pipeline, ["model", "params"], "model.params").update(self.params)
        if self.search is not None:
            self._switch(_section(pipeline, ["model"], "model.search"))

    def _switch(self, model: dict[str, Any]) -> None:
        if model.get("search") is not None:
            _section(model, ["search"], "model.search.enabled")["enabled"] = self.search
        elif self.search:
            raise UsageError(
                "--search on (TRILHO_SEARCH) asks for a search, but the pipeline has no "
                "'model.search' section.",
                hint="Say there what to search (docs/pipeline.md, `model.search`), with "
                "`enabled: false` if it shall only run when asked for.",
            )


def _section(tree: dict[str, Any], keys: list[str], wanted: str) -> dict[str, Any]:
    """Return the section at the end of the keys, made where it is missing."""
    for key in keys:
        child = tree.get(key)
        if child is None:
            child = tree[key] = {}
        if not isinstance(child, dict):
            raise UsageError(f"Cannot set '{wanted}': '{key}' is not a section of the pipeline.")
        tree = child
    return tree


def _value(key: str, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise UsageError(f"--set {key}: {text!r} is not a YAML value.") from None
    return value.isoformat() if isinstance(value, date) else value  # a bare date is text, here
