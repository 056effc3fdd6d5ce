"""What IAM decides: an explicit denial, else an allowance, else a denial.

moto enforces identities and signatures, but knows neither the conditions of a policy nor the
resources of ECS; with this it does. An operator that is not known here fails the test that meets
it, instead of holding or not by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One thing that is asked of AWS; a call may ask for several."""

    action: str
    resource: str
    context: dict[str, str] = field(default_factory=dict)


def allowed(request: Request, policies: Iterable[dict[str, Any]]) -> bool:
    """Whether these policies together allow it."""
    statements = [s for policy in policies for s in _listed(policy["Statement"])]
    effects = {s["Effect"] for s in statements if concerns(s, request)}
    return effects == {"Allow"}


def concerns(statement: dict[str, Any], request: Request) -> bool:
    """Whether a statement speaks of the request."""
    assert not {"NotAction", "NotResource", "NotPrincipal"} & set(statement)
    return (
        any(like(action, request.action, True) for action in _listed(statement["Action"]))
        and any(like(arn, request.resource) for arn in _listed(statement.get("Resource", "*")))
        and holds(statement.get("Condition", {}), request.context)
    )


def holds(condition: dict[str, Any], context: dict[str, str]) -> bool:
    """Whether each operator holds for each of its keys, for one of the key's values."""
    known = {key.lower(): value for key, value in context.items()}
    return all(
        _holds(operator, known.get(key.lower()), [str(v) for v in _listed(values)])
        for operator, keys in condition.items()
        for key, values in keys.items()
    )


def _holds(operator: str, found: str | None, values: list[str]) -> bool:
    if operator == "Null":
        return str(found is None).lower() in values
    if operator.endswith("IfExists"):
        return found is None or _holds(operator.removesuffix("IfExists"), found, values)
    if found is None:
        return False
    if operator == "StringEquals":
        return found in values
    if operator == "Bool":
        return found.lower() in values
    if operator in ("StringLike", "ArnLike", "ArnEquals"):
        return any(like(value, found) for value in values)
    raise NotImplementedError(operator)


def like(pattern: str, text: str, any_case: bool = False) -> bool:
    """Whether a text fits a pattern of `*` and `?`."""
    expression = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(expression, text, re.I if any_case else 0) is not None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
