"""docs/operations.md: at three in the morning a command must be right as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from trilho.cli import app

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = {
    line.partition(" > ")[0] for line in "".join(BLOCKS).splitlines() if line.startswith("trilho ")
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_verb_of_the_runbooks_takes_what_is_written_there(command: str) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("trilho", shlex.split(command, comments=True)[1:])
    while hasattr(group, "resolve_command") and context._protected_args + context.args:
        rest = [*context._protected_args, *context.args]
        name, group, rest = group.resolve_command(context, rest)
        context = group.make_context(name, rest, parent=context)
    assert not context.args


def test_the_runbooks_are_all_there() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    wanted = ["A deployment failed", "Roll back", "A key leaked", "The bucket is lost"]
    assert headings[:5] == [*wanted, "The service is slow"]
    assert len(COMMANDS) > 10
