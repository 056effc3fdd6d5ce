"""Whether the caller may do what its job takes, asked of IAM, else tried without a trace.

Where IAM may not be asked (`iam:SimulatePrincipalPolicy`), a write is tried in a way that cannot
succeed: S3 checks permissions first and conditions then, so `If-Match` on an object that does not
exist, and `If-None-Match: *` on one that does, change nothing and tell yes from no.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, allow, bad, document, good, unknown
from trilho.errors import TrilhoError, UnavailableError, UsageError
from trilho.storage.aws import denies, explained

PROBE = "trilho-doctor-probe"  # a key that nothing has
TASKS = "ecs-tasks.amazonaws.com"
FIRST = {"s3:if-none-match": "*", "s3:ObjectCreationOperation": "true"}
SWAP = {"s3:if-match": "etag", "s3:ObjectCreationOperation": "true"}


@dataclass(frozen=True)
class Need:
    """One thing that an identity must be able to do."""

    what: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    context: dict[str, str] = field(default_factory=dict)
    attempt: Callable[[], bool] | None = None  # without a trace; None: there is no such way
    granted: bool = True  # False: must not be able to do it


def permissions(c: Context) -> list[Finding]:
    """Return a finding for each need of the identity."""
    if c.acts_as == "observer":
        raise Unknown("these credentials only look")
    if c.caller.kind == "root":
        raise Unknown("the account's root may do everything")
    needs = [*_registry(c), *(_service(c) if c.acts_as == "deploy" else _never(c))]
    findings = []
    for need in needs:
        c.tell(f"may it {need.what}?")
        findings.append(_judge(c, need))
    return findings


def _judge(c: Context, need: Need) -> Finding:
    try:
        refused = _simulated(c, need)
    except UnavailableError as error:
        return unknown(error.message, check=need.what)
    except TrilhoError:  # it may not be asked, or IAM knows that identity by another name
        return _tried(c, need)
    if need.granted:
        if refused:
            return bad(
                f"{c.caller.name} may not {', '.join(refused)}",
                document(_statement(need, refused)),
                check=need.what,
            )
        return good("allowed, says IAM", check=need.what)
    return _forbidden(c, need, len(refused) < len(need.actions), "says IAM")


def _tried(c: Context, need: Need) -> Finding:
    """Judge by trying."""
    if need.attempt is None:
        return unknown(
            "IAM may not be asked, and there is no way to try it without doing it",
            document(allow(["iam:SimulatePrincipalPolicy"], c.caller.principal or "*")),
            check=need.what,
        )
    try:
        allowed = need.attempt()
    except Unknown as error:
        return unknown(error.reason, error.mend, check=need.what)
    except TrilhoError as error:
        return unknown(error.message, error.hint, check=need.what)
    if not need.granted:
        return _forbidden(c, need, allowed, "tried without a trace")
    if allowed:
        return good("allowed, tried without a trace", check=need.what)
    return bad(
        f"{c.caller.name} may not {', '.join(need.actions)}",
        document(_statement(need, need.actions)),
        check=need.what,
    )


def _forbidden(c: Context, need: Need, allowed: bool, how: str) -> Finding:
    if not allowed:
        return good(f"denied, {how}", check=need.what)
    denied = _statement(need, need.actions) | {"Effect": "Deny"}
    denied.pop("Condition", None)
    return bad(
        f"{c.caller.name} can, and whoever opens a pull request acts as it",
        document(denied),
        check=need.what,
    )


def _statement(need: Need, actions: tuple[str, ...] | list[str]) -> dict[str, Any]:
    statement = allow(actions, sorted({_wide(arn) for arn in need.resources}))
    if "s3:if-none-match" in need.context:
        statement["Condition"] = {"Null": {"s3:if-none-match": "false"}}
    elif "s3:if-match" in need.context:
        statement["Condition"] = {"Null": {"s3:if-match": "false"}}
    elif need.context:
        key, value = next(iter(need.context.items()))
        operator = "ArnEquals" if key == "ecs:cluster" else "StringEquals"
        statement["Condition"] = {operator: {key: value}}
    return statement


def _wide(arn: str) -> str:
    """A resource as a policy names it: what stands for any name becomes `*`."""
    return arn.replace(PROBE, "*")


def _simulated(c: Context, need: Need) -> list[str]:
    """Return the actions that IAM says are refused for one of the resources."""
    entries = [
        {
            "ContextKeyName": key,
            "ContextKeyValues": [value],
            "ContextKeyType": "boolean" if value in ("true", "false") else "string",
        }
        for key, value in need.context.items()
    ]
    source = c.caller.principal
    if source is None:
        raise UsageError(f"IAM cannot be asked about {c.caller.arn}.")
    refused = set()
    with explained(f"ask what {c.caller.name} may do"):
        pages = (
            c.client("iam")
            .get_paginator("simulate_principal_policy")
            .paginate(
                PolicySourceArn=source,
                ActionNames=list(need.actions),
                ResourceArns=list(need.resources),
                ContextEntries=entries,
            )
        )
        for page in pages:
            for result in page["EvaluationResults"]:
                if result["EvalDecision"] != "allowed":
                    refused.add(result["EvalActionName"])
    return sorted(refused)


# --- what the identities need ---


def _registry(c: Context) -> list[Need]:
    if c.bucket is None:
        return []
    bucket = f"arn:{c.caller.partition}:s3:::{c.bucket}"

    def keys(*prefixes: str) -> tuple[str, ...]:
        return tuple(f"{bucket}/{_key(c, prefix)}" for prefix in prefixes)

    candidates = ("blobs", "manifests", "runs", "candidates")
    needs = [
        Need("list the registry", ("s3:ListBucket",), (bucket,), attempt=lambda: _lists(c)),
        Need("read the registry", ("s3:GetObject",), keys("blobs"), attempt=lambda: _reads(c)),
        Need(
            "store candidates",
            ("s3:PutObject",),
            keys(*candidates),
            FIRST,
            attempt=lambda: _creates(c, candidates),
        ),
        Need(
            "judge candidates again",
            ("s3:PutObject",),
            keys("candidates"),
            SWAP,
            attempt=lambda: _swaps(c, "candidates"),
        ),
    ]
    if c.acts_as != "deploy":
        return needs
    decided = ("versions", "history", "quarantine")
    return [
        *needs,
        Need(
            "publish and quarantine",
            ("s3:PutObject",),
            keys(*decided),
            FIRST,
            attempt=lambda: _creates(c, decided),
        ),
        Need(
            "move aliases",
            ("s3:PutObject",),
            keys("aliases"),
            SWAP,
            attempt=lambda: _swaps(c, "aliases"),
        ),
    ]


def _never(c: Context) -> list[Need]:
    """What the pull-request identity must not be able to do."""
    if c.bucket is None:
        return []
    alias = f"arn:{c.caller.partition}:s3:::{c.bucket}/{_key(c, 'aliases')}"
    return [
        Need(
            "not move aliases",
            ("s3:PutObject",),
            (alias,),
            SWAP,
            attempt=lambda: _swaps(c, "aliases"),
            granted=False,
        )
    ]


def _service(c: Context) -> list[Need]:
    if c.deploy is None:
        return []
    caller, wanted = c.caller, c.deploy
    ecs = f"arn:{caller.partition}:ecs:{caller.region}:{caller.account}"
    cluster = wanted.cluster
    service = f"{ecs}:service/{cluster}/{wanted.service}"
    inside = {"ecs:cluster": f"{ecs}:cluster/{cluster}"}
    family, roles = wanted.service, list[str]()
    try:
        family = c.revision.family
        names = ("taskRoleArn", "executionRoleArn")
        roles = [c.revision.definition[n] for n in names if n in c.revision.definition]
    except (TrilhoError, Unknown):
        pass  # told by the checks of the service
    revisions = f"{ecs}:task-definition/{family}:*"
    needs = [
        Need(
            "watch the service",
            ("ecs:DescribeServices", "ecs:ListServiceDeployments"),
            (service,),
            attempt=lambda: _may(
                c, "describe_services", cluster=cluster, services=[wanted.service]
            ),
        ),
        Need(
            "watch its tasks",
            ("ecs:ListTasks",),
            ("*",),
            inside,
            attempt=lambda: _may(c, "list_tasks", cluster=cluster, serviceName=wanted.service),
        ),
        Need(
            "see its tasks",
            ("ecs:DescribeTasks",),
            (f"{ecs}:task/{cluster}/{PROBE}",),
            attempt=lambda: _may(c, "describe_tasks", cluster=cluster, tasks=[PROBE]),
        ),
        Need(
            "follow its deployments",
            ("ecs:DescribeServiceDeployments", "ecs:DescribeServiceRevisions"),
            tuple(
                f"{ecs}:service-{kind}/{cluster}/{wanted.service}/{PROBE}"
                for kind in ("deployment", "revision")
            ),
        ),
        Need(
            "read task definitions",
            ("ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"),
            ("*",),
            attempt=lambda: _may(c, "list_task_definitions", familyPrefix=family),
        ),
        Need("move the service", ("ecs:UpdateService",), (service,)),
        Need("register revisions", ("ecs:RegisterTaskDefinition",), (revisions,)),
    ]
    if roles:
        passed = {"iam:PassedToService": TASKS}
        needs.append(Need("pass the tasks' roles", ("iam:PassRole",), tuple(roles), passed))
    return needs


# --- ways to try ---


def _key(c: Context, prefix: str) -> str:
    return "/".join(part for part in (c.prefix, prefix, PROBE) if part)


def _may(c: Context, operation: str, **arguments: Any) -> bool:
    """Whether a harmless call is allowed; what else is wrong with it does not matter."""
    with explained(f"try {operation}"):
        try:
            getattr(c.ecs.client, operation)(**arguments)
        except ClientError as error:
            if denies(error):
                return False
            if _status(error) >= 500:
                raise
    return True


def _lists(c: Context) -> bool:
    return _answer(c, "list_objects_v2", Prefix=_key(c, "blobs"), MaxKeys=1) != 403


def _reads(c: Context) -> bool:
    # without s3:ListBucket S3 answers 403 for what does not exist, so that one is told first
    return _answer(c, "get_object", Key=_key(c, "blobs")) != 403


def _swaps(c: Context, prefix: str) -> bool:
    """Whether an object below the prefix may be replaced: one that does not exist cannot be."""
    status = _answer(c, "put_object", Key=_key(c, prefix), Body=b"", IfMatch=f'"{"0" * 32}"')
    if status == 200:
        raise Unknown(
            f"the store ignores conditions on writes, so nothing in it is safe; {_key(c, prefix)} "
            "was left behind"
        )
    return status != 403


def _creates(c: Context, prefixes: tuple[str, ...]) -> bool:
    """Whether objects may be created below each prefix: those that are there cannot be again."""
    # of the two conditions the one that is without danger goes first, and must be honoured
    _swaps(c, "candidates")
    tried = 0
    for prefix in prefixes:
        if (key := _smallest(c, prefix)) is not None:
            tried += 1
            if _answer(c, "put_object", Key=key, Body=b"", IfNoneMatch="*") == 403:
                return False
    if not tried:
        raise Unknown(
            "IAM may not be asked, and in an empty registry it cannot be tried without a trace",
            document(allow(["iam:SimulatePrincipalPolicy"], c.caller.principal or "*")),
        )
    return True


def _smallest(c: Context, prefix: str) -> str | None:
    """Return the key of the smallest object below a prefix."""
    below = _key(c, prefix).removesuffix(PROBE)
    with explained(f"list {below}"):
        found = c.client("s3").list_objects_v2(Bucket=c.bucket, Prefix=below).get("Contents", [])
    return min(found, key=lambda o: o["Size"])["Key"] if found else None


def _answer(c: Context, operation: str, **arguments: Any) -> int:
    """Return the HTTP status of a call on the bucket."""
    with explained(f"try {operation} in {c.bucket}"):
        try:
            getattr(c.client("s3"), operation)(Bucket=c.bucket, **arguments)
        except ClientError as error:
            if _status(error) >= 500:
                raise
            return _status(error)
    return 200


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
