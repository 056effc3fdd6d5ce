"""What CloudFormation, S3 and ECR may answer, and what `trilho infra` makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from trilho.errors import UsageError
from trilho.infra import stack as stacks
from trilho.infra import values
from trilho.infra.stack import Stack
from trilho.infra.template import Parameter, Template
from trilho.storage import aws

TEMPLATE = Template("bootstrap", "{}", {"A": Parameter("A", "", None)})


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Clients that answer what a test has told them to, in that order."""
    stubs: dict[str, Stubber] = {}

    def stub(name: str) -> Stubber:
        if name not in stubs:
            client: Any = boto3.client(  # type: ignore[call-overload]
                name,
                region_name="eu-west-1",
                aws_access_key_id="a",
                aws_secret_access_key="b",
            )
            stubs[name] = Stubber(client)
            stubs[name].activate()
        return stubs[name]

    monkeypatch.setattr(aws, "client", lambda name: stub(name).client)
    monkeypatch.setattr(stacks, "POLL_SECONDS", 0)
    yield stub
    for found in stubs.values():
        found.assert_no_pending_responses()


def change(number: int) -> dict[str, Any]:
    return {
        "Type": "Resource",
        "ResourceChange": {
            "Action": "Modify",
            "LogicalResourceId": f"R{number}",
            "ResourceType": "AWS::S3::Bucket",
            "Replacement": "Conditional",
            "Details": [
                {"Target": {"Attribute": "Properties", "Name": "B"}},
                {"Target": {"Attribute": "Tags"}},
                {"Target": {"Attribute": "Properties", "Name": "B"}},
            ],
        },
    }


def test_a_plan_waits_for_cloudformation_and_reads_all_pages(service: Any) -> None:
    cloudformation = service("cloudformation")
    cloudformation.add_response("create_change_set", {"Id": "arn:set"})
    asked = {"ChangeSetName": "arn:set", "StackName": "x"}
    for status in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
        cloudformation.add_response("describe_change_set", {"Status": status, "Changes": []}, asked)
    cloudformation.add_response(
        "describe_change_set",
        {"Status": "CREATE_COMPLETE", "Changes": [change(1)], "NextToken": "more"},
        asked,
    )
    cloudformation.add_response(
        "describe_change_set",
        {"Status": "CREATE_COMPLETE", "Changes": [change(2)]},
        asked | {"NextToken": "more"},
    )
    planned = Stack("x").plan(TEMPLATE, {"A": "1"}, None)
    assert planned is not None
    assert [c.resource for c in planned.changes] == ["R1", "R2"]
    assert planned.changes[0].properties == ["B", "Tags"]
    assert planned.changes[0].replacement == "Conditional"
    assert planned.touches("R2")
    assert not planned.touches("R3")


@pytest.mark.parametrize(
    "reason",
    [
        "The submitted information didn't contain changes. Submit different information.",
        "No updates are to be performed.",
    ],
)
def test_no_change_is_no_failure_and_leaves_no_change_set(service: Any, reason: str) -> None:
    cloudformation = service("cloudformation")
    cloudformation.add_response("create_change_set", {"Id": "arn:set"})
    failed = {"Status": "FAILED", "StatusReason": reason, "Changes": []}
    cloudformation.add_response("describe_change_set", failed)
    cloudformation.add_response(
        "delete_change_set", {}, {"ChangeSetName": "arn:set", "StackName": ANY}
    )
    state = stacks.State(
        id="i", status="s", reason=None, changed=None, parameters={"A": "1"}, outputs={}
    )
    assert Stack("x").plan(TEMPLATE, {}, state) is None


def test_a_change_set_that_fails_says_why(service: Any) -> None:
    cloudformation = service("cloudformation")
    cloudformation.add_response("create_change_set", {"Id": "arn:set"})
    failed = {"Status": "FAILED", "StatusReason": "Transform failed.", "Changes": []}
    cloudformation.add_response("describe_change_set", failed)
    cloudformation.add_response("delete_change_set", {})
    cloudformation.add_response("delete_stack", {})  # the empty one that came with it
    with pytest.raises(UsageError, match=r"stack x cannot be changed so: Transform failed\."):
        Stack("x").plan(TEMPLATE, {}, None)


def test_parameters_left_out_keep_their_value_and_new_ones_take_their_default(
    service: Any,
) -> None:
    template = Template(
        "service", "{}", {name: Parameter(name, "", "d") for name in ("Given", "Kept", "New")}
    )
    state = stacks.State(
        id="i",
        status="s",
        reason=None,
        changed=None,
        parameters={"Given": "0", "Kept": "1"},
        outputs={},
    )
    cloudformation = service("cloudformation")
    cloudformation.add_response(
        "create_change_set",
        {"Id": "arn:set"},
        {
            "StackName": "x",
            "ChangeSetName": ANY,
            "ChangeSetType": "UPDATE",
            "TemplateBody": "{}",
            "Capabilities": ["CAPABILITY_NAMED_IAM"],
            "Parameters": [
                {"ParameterKey": "Given", "ParameterValue": "2"},
                {"ParameterKey": "Kept", "UsePreviousValue": True},
            ],
        },
    )
    cloudformation.add_response("describe_change_set", {"Status": "CREATE_COMPLETE", "Changes": []})
    Stack("x").plan(template, {"Given": "2"}, state)


def test_a_stack_of_which_there_is_only_a_change_set_is_made_anew(service: Any) -> None:
    cloudformation = service("cloudformation")
    found = {"StackName": "x", "StackId": "i", "CreationTime": datetime.now(UTC)}
    review = found | {"StackStatus": "REVIEW_IN_PROGRESS"}
    cloudformation.add_response("describe_stacks", {"Stacks": [review]})
    assert Stack("x").ready() is None
    cloudformation.add_client_error(
        "describe_stacks", "ValidationError", "Stack with id x does not exist", 400
    )
    assert Stack("x").ready() is None
    cloudformation.add_client_error("describe_stacks", "AccessDenied", "not for you", 403)
    with pytest.raises(UsageError, match="access denied"):
        Stack("x").ready()


@pytest.mark.parametrize("status", [301, 403])
def test_a_bucket_name_of_somebody_else_is_refused_before_anything_begins(
    service: Any, status: int
) -> None:
    service("sts").add_response("get_caller_identity", {"Account": "123456789012"})
    service("s3").add_client_error("head_bucket", str(status), "", status)
    with pytest.raises(UsageError, match="trilho-123456789012-eu-west-1 is taken") as error:
        values.bootstrap("trilho", {}, None)
    assert error.value.hint == "Choose one with --param Bucket=NAME."


def test_a_bucket_of_which_nothing_is_known_is_made(service: Any) -> None:
    service("sts").add_response("get_caller_identity", {"Account": "123456789012"})
    service("s3").add_client_error("head_bucket", "404", "Not Found", 404)
    service("iam").add_response(
        "list_open_id_connect_providers",
        {"OpenIDConnectProviderList": [{"Arn": "arn:aws:iam::1:oidc-provider/gitlab.com"}]},
    )
    found = values.bootstrap("trilho", {"LogDays": "7"}, None)
    assert found.values == {
        "Name": "trilho",
        "Bucket": "trilho-123456789012-eu-west-1",
        "LogDays": "7",
    }
    assert found.notes == []


def test_the_newest_image_is_the_tagged_one_that_was_pushed_last(service: Any) -> None:
    def image(digest: str, minute: int, *tags: str) -> dict[str, Any]:
        pushed = datetime(2026, 11, 21, 12, minute, tzinfo=UTC)
        return {"imageDigest": digest, "imagePushedAt": pushed} | (
            {"imageTags": list(tags)} if tags else {}
        )

    images = [image("sha256:a", 1, "one"), image("sha256:b", 3, "two"), image("sha256:c", 2, "x")]
    part = image("sha256:d", 4)  # of an image for several platforms
    service("ecr").add_response(
        "describe_images", {"imageDetails": [*images, part]}, {"repositoryName": "trilho/serve"}
    )
    assert values.newest_image("host/trilho/serve") == "host/trilho/serve@sha256:b"
