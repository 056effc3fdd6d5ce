"""The registry's bucket: what nobody may be able to lose, read or change behind our back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from botocore.exceptions import ClientError

from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, aws, bad, doubt, good
from trilho.storage.aws import explained

ONCE = ("blobs", "manifests", "runs", "versions", "history", "quarantine")  # written once
KEPT = (*ONCE, "aliases")  # what no lifecycle may expire
CANDIDATE_DAYS = 90
PUBLIC = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def reachable(c: Context) -> Finding:
    bucket = _bucket(c)
    _get(c, "head_bucket")
    return good(f"{bucket} answers")


def versioning(c: Context) -> Finding:
    state = (_get(c, "get_bucket_versioning") or {}).get("Status", "never switched on")
    if state == "Enabled":
        return good("on")
    return bad(
        f"{state}: what is deleted by mistake is lost",
        _put(c, "put-bucket-versioning", versioning_configuration={"Status": "Enabled"}),
    )


def encryption(c: Context) -> Finding:
    found = _get(c, "get_bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError")
    rules = (found or {}).get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    kinds = [
        rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]
        for rule in rules
        if "ApplyServerSideEncryptionByDefault" in rule
    ]
    if kinds:
        return good(f"at rest by {', '.join(kinds)}")
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    return bad(
        "objects are not encrypted by default",
        _put(c, "put-bucket-encryption", server_side_encryption_configuration={"Rules": [rule]}),
    )


def public_access(c: Context) -> Finding:
    found = _get(c, "get_public_access_block", "NoSuchPublicAccessBlockConfiguration") or {}
    blocked = found.get("PublicAccessBlockConfiguration", {})
    if not (open_ways := [name for name in PUBLIC if not blocked.get(name)]):
        return good("blocked in all four ways")
    return bad(
        f"not blocked: {', '.join(open_ways)}",
        _put(
            c,
            "put-public-access-block",
            public_access_block_configuration=dict.fromkeys(PUBLIC, True),
        ),
    )


def tls_only(c: Context) -> Finding:
    if not _without_tls(c):
        return good("requests without TLS are refused")
    return bad("the bucket answers requests without TLS", _policy_mended(c))


def append_only(c: Context) -> Finding:
    """Whether the bucket itself keeps everybody from rewriting what was decided."""
    if not (missing := _rewritable(c)):
        return good("what is written once is neither overwritten nor deleted, by nobody")
    return doubt(
        "whoever holds other policies may rewrite or delete what was decided: the bucket's policy "
        f"has no {' and no '.join(sorted(s['Sid'] for s in missing))}",
        _policy_mended(c),
    )


def lifecycle(c: Context) -> Finding:
    found = _get(c, "get_bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration") or {}
    rules = [rule for rule in found.get("Rules", []) if rule["Status"] == "Enabled"]
    expiring = [rule for rule in rules if _expires(rule)]
    deadly = [r for r in expiring if any(_touches(r, _below(c, p)) for p in KEPT)]
    if deadly:
        names = ", ".join(rule.get("ID", "without a name") for rule in deadly)
        return bad(
            f"the rule {names} deletes versions, their bundles or their history",
            _lifecycle(c, [rule for rule in found["Rules"] if rule not in deadly]),
        )
    candidates = _below(c, "candidates")
    if any(_touches(rule, candidates) for rule in expiring):
        return good("candidates expire, versions stay")
    wanted = {
        "ID": "candidates-expire",
        "Status": "Enabled",
        "Filter": {"Prefix": candidates},
        "Expiration": {"Days": CANDIDATE_DAYS},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    }
    return doubt("candidates are kept for ever", _lifecycle(c, [*found.get("Rules", []), wanted]))


def _bucket(c: Context) -> str:
    if c.bucket is None:
        raise Unknown(f"the registry is the folder {c.registry_url}")
    return c.bucket


def _arn(c: Context) -> str:
    return f"arn:{c.caller.partition}:s3:::{_bucket(c)}"


def _below(c: Context, prefix: str) -> str:
    """A prefix of the registry's as the bucket has it, with its slash."""
    return "/".join(part for part in (c.prefix, prefix) if part) + "/"


def _get(c: Context, operation: str, absent: str | None = None) -> dict[str, Any] | None:
    """Read a setting; None where it was never made."""
    with explained(f"{operation} of {_bucket(c)}"):
        try:
            return dict(getattr(c.client("s3"), operation)(Bucket=c.bucket))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == absent:
                return None
            if operation == "head_bucket" and code == "404":  # its answer has no body to say so
                error.response["Error"]["Code"] = "NoSuchBucket"
            raise


def _put(c: Context, operation: str, **options: Any) -> str:
    return aws("s3api", operation, bucket=_bucket(c), **options)


def _lifecycle(c: Context, rules: list[dict[str, Any]]) -> str:
    if not rules:
        return _put(c, "delete-bucket-lifecycle")
    return _put(c, "put-bucket-lifecycle-configuration", lifecycle_configuration={"Rules": rules})


def _without_tls(c: Context) -> list[dict[str, Any]]:
    """The statement that refuses requests without TLS, if the policy has none like it."""
    wanted: dict[str, Any] = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [_arn(c), f"{_arn(c)}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    refused = any(
        {"s3:*", "*"} & set(_listed(s.get("Action")))
        and set(wanted["Resource"]) <= set(_listed(s.get("Resource")))
        and _texts(s.get("Condition", {}).get("Bool", {})) == {"aws:securetransport": {"false"}}
        and set(s["Condition"]) == {"Bool"}
        for s in _denials(c)
    )
    return [] if refused else [wanted]


def _rewritable(c: Context) -> list[dict[str, Any]]:
    """The statements that keep what is written once, as far as the policy has none like them."""
    keys = [f"{_arn(c)}/{_below(c, prefix)}*" for prefix in ONCE]
    everything = f"{_arn(c)}/{_below(c, '')}*"
    rewrite: dict[str, Any] = {
        "Sid": "WrittenOnceIsNotOverwritten",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": keys,
        "Condition": {
            "Null": {"s3:if-none-match": "true"},
            "Bool": {"s3:ObjectCreationOperation": "true"},
        },
    }
    delete: dict[str, Any] = {
        "Sid": "NothingIsDeleted",
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
        "Resource": everything,
    }
    kept = {
        key
        for s in _denials(c)
        if "s3:PutObject" in _listed(s.get("Action"))
        and _texts(s.get("Condition", {}).get("Null", {})).get("s3:if-none-match") == {"true"}
        for key in _listed(s.get("Resource"))
    }
    lasting = any(
        set(delete["Action"]) <= set(_listed(s.get("Action")))
        and everything in _listed(s.get("Resource"))
        and not s.get("Condition")
        for s in _denials(c)
    )
    return [*([] if kept.issuperset(keys) else [rewrite]), *([] if lasting else [delete])]


def _policy_mended(c: Context) -> str:
    """The command that adds all that the policy lacks: it is replaced as a whole."""
    missing = [*_without_tls(c), *_rewritable(c)]
    replaced = {s["Sid"] for s in missing}
    rest = [s for s in _policy(c) if s.get("Sid") not in replaced]
    policy = {"Version": "2012-10-17", "Statement": [*rest, *missing]}
    return _put(c, "put-bucket-policy", policy=json.dumps(policy))


def _denials(c: Context) -> list[dict[str, Any]]:
    """The statements that deny something to everybody."""
    everybody: tuple[Any, ...] = ("*", {"AWS": "*"}, {"AWS": ["*"]})
    return [s for s in _policy(c) if s["Effect"] == "Deny" and s.get("Principal") in everybody]


def _policy(c: Context) -> list[dict[str, Any]]:
    """The statements of the bucket's policy."""

    def read() -> list[dict[str, Any]]:
        found = _get(c, "get_bucket_policy", "NoSuchBucketPolicy")
        return list(_listed(json.loads(found["Policy"])["Statement"])) if found else []

    return c.once("bucket policy", read)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(condition: dict[str, Any]) -> dict[str, set[str]]:
    """The keys of a condition, whose case does not matter, and their values."""
    return {k.lower(): {str(v).lower() for v in _listed(vs)} for k, vs in condition.items()}


def _expires(rule: dict[str, Any]) -> bool:
    """Whether a rule deletes objects, and not only what deleted ones left behind."""
    return bool({"Days", "Date"} & set(rule.get("Expiration", {})))


def _touches(rule: dict[str, Any], prefix: str) -> bool:
    """Whether a rule may concern keys that begin so; tags only narrow it down."""
    chosen = rule.get("Filter", {})
    begins: Iterable[str] = [
        rule.get("Prefix") or chosen.get("Prefix") or chosen.get("And", {}).get("Prefix") or ""
    ]
    return any(prefix.startswith(b) or b.startswith(prefix) for b in begins)
