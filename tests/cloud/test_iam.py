"""Who may do what: the policies of infra/, enforced, one call after the other."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from botocore.exceptions import ClientError
from calls import BOTH, CALLS, DEPLOY, NOBODY, PULL_REQUEST
from iam_policy import Request, allowed, holds, like
from identities import ACCOUNT, BUCKET, REGION, Cloud, bootstrap, running, service

PREFIXES = (
    "blobs",
    "manifests",
    "runs",
    "candidates",
    "versions",
    "history",
    "quarantine",
    "aliases",
)
ONCE = tuple(prefix for prefix in PREFIXES if prefix not in ("candidates", "aliases"))
EVERYTHING = {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
DENIED = ("AccessDenied", "AccessDeniedException", "403")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running(tmp_path_factory.mktemp("cloud")) as made:
        yield made


def new_key(prefix: str) -> str:
    return f"registry/{prefix}/{secrets.token_hex(8)}.json"


@pytest.fixture
def there(cloud: Cloud) -> Callable[[str], tuple[str, str]]:
    """Makes an object below a prefix, as an administrator; gives its key and etag."""

    def make(prefix: str) -> tuple[str, str]:
        key = prefix if prefix.startswith("predictions") else new_key(prefix)
        answer = cloud.client("admin", "s3").put_object(
            Bucket=BUCKET, Key=key, Body=b"first", IfNoneMatch="*"
        )
        return key, answer["ETag"]

    return make


def may(call: Callable[[], Any]) -> bool:
    """Whether a call is allowed; any other failure fails the test."""
    try:
        call()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ImageAlreadyExistsException":  # allowed, and done by an earlier case
            return True
        if code not in DENIED:
            raise
        return False
    return True


# --- the registry: prefix by prefix, way of writing by way of writing ---

CREATES = {
    "blobs": BOTH,
    "manifests": BOTH,
    "runs": BOTH,
    "candidates": BOTH,
    "versions": (DEPLOY,),
    "history": (DEPLOY,),
    "quarantine": (DEPLOY,),
    "aliases": (DEPLOY,),
}
MOVES = {"candidates": BOTH, "aliases": (DEPLOY,)}


@pytest.fixture(params=[f"{name} {kind}" for name in BOTH for kind in ("role", "user")])
def identity(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def is_one_of(identity: str, wanted: tuple[str, ...]) -> bool:
    return identity.rsplit(" ", 1)[0] in wanted


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_an_identity_may_do_below_each_prefix(
    cloud: Cloud, there: Callable[[str], tuple[str, str]], identity: str, prefix: str
) -> None:
    s3 = cloud.client(identity, "s3")
    key, etag = there(prefix)
    at = {"Bucket": BUCKET, "Key": key}
    new = {"Bucket": BUCKET, "Key": new_key(prefix), "Body": b"x"}
    version = cloud.client("admin", "s3").head_object(**at)["VersionId"]
    found = {
        "read": may(lambda: s3.get_object(**at)),
        "look": may(lambda: s3.head_object(**at)),
        "create": may(lambda: s3.put_object(**new, IfNoneMatch="*")),
        "create without a condition": may(lambda: s3.put_object(**new)),
        "overwrite": may(lambda: s3.put_object(**at, Body=b"second")),
        "copy over": may(lambda: s3.copy_object(**at, CopySource=at)),
        "delete": may(lambda: s3.delete_object(**at)),
        "delete many": may(
            lambda: s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]})
        ),
        "delete a version": may(lambda: s3.delete_object(**at, VersionId=version)),
        "tag": may(lambda: s3.put_object_tagging(**at, Tagging={"TagSet": []})),
        "open to all": may(lambda: s3.put_object_acl(**at, ACL="public-read")),
        "swap": may(lambda: s3.put_object(**at, Body=b"third", IfMatch=etag)),
    }
    assert found == dict.fromkeys(found, False) | {
        "read": True,
        "look": True,
        "create": is_one_of(identity, CREATES[prefix]),
        "swap": is_one_of(identity, MOVES.get(prefix, NOBODY)),
    }
    expected = b"third" if found["swap"] else b"first"
    assert cloud.client("admin", "s3").get_object(**at)["Body"].read() == expected


def upload(s3: Any, key: str, **condition: str) -> None:
    """Send an object in parts."""
    at = {"Bucket": BUCKET, "Key": key}
    at["UploadId"] = s3.create_multipart_upload(**at)["UploadId"]
    part = s3.upload_part(**at, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(**at, MultipartUpload=parts, **condition)


def test_large_files_are_sent_in_parts_and_still_only_once(
    cloud: Cloud, there: Callable[[str], tuple[str, str]], identity: str
) -> None:
    s3 = cloud.client(identity, "s3")
    assert may(lambda: upload(s3, new_key("blobs"), IfNoneMatch="*"))
    assert not may(lambda: upload(s3, new_key("blobs")))
    assert not may(lambda: upload(s3, there("blobs")[0]))
    begun = s3.create_multipart_upload(Bucket=BUCKET, Key=new_key("blobs"))
    at = {name: begun[name] for name in ("Bucket", "Key", "UploadId")}
    assert may(lambda: s3.abort_multipart_upload(**at))
    for prefix in set(PREFIXES) - {"blobs"}:
        assert not may(lambda p=prefix: s3.create_multipart_upload(Bucket=BUCKET, Key=new_key(p)))


@pytest.mark.parametrize("prefix", ONCE)
def test_not_even_an_administrator_rewrites_what_is_written_once(
    cloud: Cloud, there: Callable[[str], tuple[str, str]], prefix: str
) -> None:
    s3 = cloud.client("admin", "s3")
    key, _ = there(prefix)
    version = s3.head_object(Bucket=BUCKET, Key=key)["VersionId"]
    at = {"Bucket": BUCKET, "Key": key}
    assert not may(lambda: s3.put_object(**at, Body=b"second"))
    assert not may(lambda: s3.delete_object(**at))
    assert not may(lambda: s3.delete_object(**at, VersionId=version))
    assert s3.get_object(**at)["Body"].read() == b"first"


@pytest.mark.parametrize("prefix", ONCE)
def test_append_only_can_be_lifted_for_a_repair_but_not_for_the_identities(prefix: str) -> None:
    lifted = bootstrap(AppendOnly="false").resource("BucketPolicy")["PolicyDocument"]
    kept = bootstrap().resource("BucketPolicy")["PolicyDocument"]
    own = bootstrap().resource("RegistryPolicy")["PolicyDocument"]
    key = f"arn:aws:s3:::{BUCKET}/registry/{prefix}/x.json"
    for asked in (
        Request("s3:PutObject", key, {"s3:ObjectCreationOperation": "true"}),
        Request("s3:PutObject", key, {"s3:ObjectCreationOperation": "true", "s3:if-match": "e"}),
        Request("s3:DeleteObject", key),
        Request("s3:DeleteObjectVersion", key),
    ):
        assert not allowed(asked, [EVERYTHING, kept])
        assert allowed(asked, [EVERYTHING, lifted])
        assert not allowed(asked, [EVERYTHING, own, lifted])


def test_the_pull_request_identity_decides_nothing_even_if_somebody_grants_it_all() -> None:
    own = [
        bootstrap().resource(n)["PolicyDocument"] for n in ("RegistryPolicy", "PullRequestPolicy")
    ]
    for prefix in ("versions", "aliases", "history", "quarantine"):
        key = f"arn:aws:s3:::{BUCKET}/registry/{prefix}/x.json"
        asked = Request("s3:PutObject", key, {"s3:if-none-match": "*", "s3:if-match": "e"})
        assert not allowed(asked, [EVERYTHING, *own])
    for action in ("ecs:UpdateService", "ecr:PutImage", "iam:PassRole", "s3:PutBucketPolicy"):
        assert not allowed(Request(action, f"arn:aws:s3:::{BUCKET}"), [EVERYTHING, *own])


def test_nobody_speaks_to_the_bucket_without_tls() -> None:
    policy = bootstrap().resource("BucketPolicy")["PolicyDocument"]
    for arn in (f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/registry/runs/1.json"):
        for secure in ("true", "false"):
            asked = Request("s3:GetObject", arn, {"aws:SecureTransport": secure})
            assert allowed(asked, [EVERYTHING, policy]) == (secure == "true")


# --- all else that an identity might try ---


@pytest.mark.parametrize("what", CALLS)
def test_what_an_identity_may_call(cloud: Cloud, identity: str, what: str) -> None:
    call = CALLS[what]
    client = cloud.client(identity, call.service)
    assert may(lambda: call.on(client)) == is_one_of(identity, call.who)


def test_each_of_these_calls_works_for_an_administrator(cloud: Cloud) -> None:
    """So that a call is denied for who asks, and not for being asked wrongly."""
    harmless = [c for c in CALLS.values() if c.operation.startswith(("list", "head", "describe"))]
    assert len(harmless) > 10
    for call in harmless:
        call.on(cloud.client("admin", call.service))


# --- the service itself ---


@pytest.mark.parametrize(
    ("operation", "key", "granted"),
    [
        ("get_object", "blobs", True),
        ("get_object", "manifests", True),
        ("get_object", "versions", False),
        ("get_object", "candidates", False),
        ("get_object", "predictions/known.json", False),
        ("put_object", "predictions/2026/11/21/x.jsonl", True),
        ("put_object", "labelling/2026/11/21/x.jsonl", True),
        ("put_object", "registry/blobs/sha256/x", False),
        ("put_object", "registry/aliases/champion.json", False),
        ("put_object", "elsewhere/x", False),
        ("delete_object", "predictions/known.json", False),
        ("list_objects_v2", "", False),
    ],
)
def test_what_the_task_may_do(
    cloud: Cloud,
    there: Callable[[str], tuple[str, str]],
    operation: str,
    key: str,
    granted: bool,
) -> None:
    if key == "predictions/known.json":
        with suppress(ClientError):  # made by an earlier case
            there(key)
    elif operation == "get_object":
        key, _ = there(key)
    arguments = {"Bucket": BUCKET} | ({"Key": key} if key else {})
    if operation == "put_object":
        arguments |= {"Body": b"x", "IfNoneMatch": "*"}
    s3 = cloud.client("task", "s3")
    assert may(lambda: getattr(s3, operation)(**arguments)) == granted


def test_the_task_and_the_execution_role_reach_nothing_else(cloud: Cloud) -> None:
    for name in ("task", "execution"):
        assert not may(cloud.client(name, "ecs").list_clusters)
        assert not may(cloud.client(name, "iam").list_users)
        assert not may(lambda n=name: cloud.client(n, "s3").list_objects_v2(Bucket=BUCKET))
    assert may(cloud.client("execution", "ecr").get_authorization_token)
    assert not may(cloud.client("task", "ecr").get_authorization_token)
    own = service().resource("ExecutionRole")["Policies"][0]["PolicyDocument"]
    logs = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group"
    for group, granted in (("/trilho/trilho", True), ("/payroll", False)):
        stream = f"{logs}:{group}:log-stream:credit-default/model/1"
        assert allowed(Request("logs:PutLogEvents", stream), [own]) == granted


# --- whose tokens a role takes ---

SUBJECTS = [
    ("repo:acme@1/models@2:pull_request", PULL_REQUEST),
    ("repo:acme@1/models@2:ref:refs/heads/main", PULL_REQUEST),
    ("repo:acme@1/models@2:ref:refs/heads/a/branch", PULL_REQUEST),
    ("repo:acme@1/models@2:environment:production", DEPLOY),
    ("repo:acme@1/models@2:environment:staging", None),
    ("repo:acme@1/models@2:environment:production2", None),
    ("repo:acme@1/models@2:ref:refs/tags/v1", None),
    ("repo:acme/models:pull_request", None),
    ("repo:acme@1/models@3:pull_request", None),
    ("repo:acme@1/models@2-evil:pull_request", None),
    ("repo:evil@9/acme@1/models@2:pull_request", None),
]


@pytest.mark.parametrize(("subject", "who"), SUBJECTS)
def test_whose_tokens_a_role_takes(subject: str, who: str | None) -> None:
    issuer = "token.actions.githubusercontent.com"
    for name, logical in ((PULL_REQUEST, "PullRequestRole"), (DEPLOY, "DeployRole")):
        (trust,) = bootstrap().resource(logical)["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
        assert trust["Principal"] == {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{issuer}"}
        token = {f"{issuer}:sub": subject, f"{issuer}:aud": "sts.amazonaws.com"}
        assert holds(trust["Condition"], token) == (name == who)
        assert not holds(trust["Condition"], token | {f"{issuer}:aud": "other"})


@pytest.mark.parametrize(
    ("subject", "good"),
    [
        ("repo:acme/models", True),
        ("repo:acme@12/models@34", True),
        ("repo:acme/*", False),
        ("repo:*", False),
        ("acme/models", False),
        ("repo:acme/models:environment:production", False),
    ],
)
def test_no_subject_with_a_wildcard_is_taken(subject: str, good: bool) -> None:
    pattern = bootstrap().template["Parameters"]["GitHubSubject"]["AllowedPattern"]
    assert (re.fullmatch(pattern, subject) is not None) == good


# --- the measure itself ---


def test_the_measure_decides_as_iam_does() -> None:
    write = {"Effect": "Allow", "Action": "s3:Put*", "Resource": "arn:aws:s3:::b/*"}
    never = {"Effect": "Deny", "Action": "*", "Resource": "arn:aws:s3:::b/kept/*"}
    policies = [{"Statement": [write]}, {"Statement": never}]
    assert allowed(Request("s3:PutObject", "arn:aws:s3:::b/x"), policies)
    assert not allowed(Request("s3:GetObject", "arn:aws:s3:::b/x"), policies)
    assert not allowed(Request("s3:PutObject", "arn:aws:s3:::c/x"), policies)
    assert not allowed(Request("s3:PutObject", "arn:aws:s3:::b/kept/x"), policies)
    assert not allowed(Request("s3:PutObject", "arn:aws:s3:::b/x"), [])
    assert holds({"Null": {"k": "true"}}, {})
    assert not holds({"Null": {"k": "true"}}, {"K": "v"})
    assert not holds({"StringEquals": {"k": "v"}}, {})
    assert holds({"StringEqualsIfExists": {"k": "v"}}, {})
    assert not holds({"StringEquals": {"k": "v", "l": "w"}}, {"k": "v", "l": "x"})
    assert not holds({"Bool": {"k": "true"}, "Null": {"l": "false"}}, {"k": "true"})
    assert like("a*c?", "abbcd")
    assert not like("a.c", "abc")
    with pytest.raises(NotImplementedError):
        holds({"NumericLessThan": {"k": "1"}}, {"k": "0"})
