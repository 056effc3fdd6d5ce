"""Whose credentials these are, and how old."""

from __future__ import annotations

from typing import Any

from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, aws, bad, doubt, good
from trilho.storage.aws import explained

OLDEST = 90  # days that a key may be in use


def credentials(c: Context) -> Finding:
    if c.bucket is None and c.deploy is None:
        raise Unknown("neither the registry nor a service is on AWS")
    caller = c.caller
    where = f"{caller.arn}, account {caller.account}, region {caller.region}"
    if caller.kind == "root":
        return bad(
            f"{where}: the account's root, whom no policy holds back",
            "trilho infra up bootstrap",
        )
    return good(f"{where}; checked as the {c.acts_as} identity")


def key_age(c: Context) -> Finding:
    caller = c.caller
    if caller.kind not in ("user", "root"):
        return good("temporary credentials: there is no key that could grow old")
    if caller.kind == "root":
        raise Unknown("IAM lists no keys of the root")
    with explained(f"list the access keys of {caller.name}"):
        found = c.client("iam").list_access_keys(UserName=caller.name)["AccessKeyMetadata"]
    keys: list[dict[str, Any]] = [key for key in found if key["Status"] == "Active"]
    days = {key["AccessKeyId"]: (c.today - key["CreateDate"]).days for key in keys}
    old = {key: age for key, age in days.items() if age > OLDEST}
    if old:
        key, age = max(old.items(), key=lambda item: item[1])
        return doubt(
            f"{caller.name} has a key of {age} days ({_hint(key)}); at most {OLDEST} are good",
            f"{aws('iam', 'create-access-key', user_name=caller.name)}  # into GitHub, then\n"
            + aws("iam", "delete-access-key", user_name=caller.name, access_key_id=key),
        )
    if len(keys) > 1:
        key, age = max(days.items(), key=lambda item: item[1])
        return doubt(
            f"{caller.name} has {len(keys)} active keys; only one is needed",
            aws("iam", "delete-access-key", user_name=caller.name, access_key_id=key),
        )
    return good(f"{caller.name}'s key is {max(days.values(), default=0)} days old")


def _hint(key: str) -> str:
    """The end of a key's id, enough to know it by."""
    return "…" + key[-4:]
