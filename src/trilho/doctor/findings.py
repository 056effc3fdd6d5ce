"""What a check says, and how it says that it cannot tell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

Status = Literal["pass", "warn", "fail", "skip"]
ORDER: tuple[Status, ...] = ("pass", "skip", "warn", "fail")  # from the best to the worst


class Finding(Struct, frozen=True, kw_only=True):
    """One line of the table."""

    status: Status
    found: str  # what is so, in a sentence or less
    mend: str | None = None  # the command, or the policy's JSON, that puts it right
    area: str = ""  # filled in by the examination, like the check's name
    check: str = ""


class Unknown(Exception):  # noqa: N818 - an answer, not an error
    """A check cannot be made; it becomes a `skip` with this reason."""

    def __init__(self, reason: str, mend: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.mend = reason, mend


def good(found: str, *, check: str = "") -> Finding:
    return Finding(status="pass", found=found, check=check)


def doubt(found: str, mend: str | None = None, *, check: str = "") -> Finding:
    return Finding(status="warn", found=found, mend=mend, check=check)


def bad(found: str, mend: str | None = None, *, check: str = "") -> Finding:
    return Finding(status="fail", found=found, mend=mend, check=check)


def unknown(found: str, mend: str | None = None, *, check: str = "") -> Finding:
    return Finding(status="skip", found=found, mend=mend, check=check)


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst of all; `pass` when there are none, and `skip` counts as no trouble."""
    found = {finding.status for finding in findings}
    return next((s for s in ("fail", "warn") if s in found), "pass")


def aws(service: str, operation: str, /, **options: Any) -> str:
    """Return a command of the AWS CLI; what is no text is given as JSON.

    >>> aws("s3api", "put-bucket-versioning", bucket="b")
    'aws s3api put-bucket-versioning --bucket b'
    """
    words = ["aws", service, operation]
    for name, value in options.items():
        words.append("--" + name.replace("_", "-"))
        words.append(value if isinstance(value, str) else json.dumps(value))
    return shlex.join(words)


def allow(actions: Iterable[str], resources: list[str] | str) -> dict[str, Any]:
    """Return a statement that grants actions."""
    return {"Effect": "Allow", "Action": sorted(actions), "Resource": resources}


def document(*statements: dict[str, Any]) -> str:
    """Return a policy, as IAM takes it."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, indent=2)
