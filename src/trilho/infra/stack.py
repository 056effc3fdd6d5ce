"""One CloudFormation stack: plan a change, apply it, delete it, and tell how it goes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from msgspec import Struct

from trilho.errors import ConflictError, DeploymentError, UsageError
from trilho.infra.template import Template
from trilho.storage import aws
from trilho.storage.aws import explained

POLL_SECONDS = 2.0  # between two looks at CloudFormation
Progress = Callable[[str], None]
"""Takes one line of progress."""

# names of roles and policies are ours, which CloudFormation wants to be told
CAPABILITIES = ["CAPABILITY_NAMED_IAM"]
NEVER_WHOLE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")


class State(Struct, frozen=True, kw_only=True):
    """A stack as it is now."""

    id: str
    status: str
    reason: str | None
    changed: datetime | None
    parameters: dict[str, str]
    outputs: dict[str, str]


class Change(Struct, frozen=True, kw_only=True):
    """What a change set does to one resource."""

    action: str  # Add | Modify | Remove | Import | Dynamic
    resource: str
    type: str
    replacement: str  # "" | True | False | Conditional
    properties: list[str]  # what of it changes


class ChangeSet(Struct, frozen=True, kw_only=True):
    """A change that CloudFormation has worked out and not made yet."""

    arn: str
    creates: bool  # the stack does not exist yet
    changes: list[Change]

    def touches(self, *resources: str) -> bool:
        """Whether it adds, changes or removes one of these."""
        return any(change.resource in resources for change in self.changes)


class Stack:
    """A stack by name, whether it exists or not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client = aws.client("cloudformation")

    def state(self, id: str | None = None) -> State | None:
        """Return the stack as it is; None when there is none."""
        try:
            with self._explained("DescribeStacks"):
                found = self.client.describe_stacks(StackName=id or self.name)["Stacks"]
        except UsageError as error:
            if "does not exist" in error.message:
                return None
            raise
        stack = found[0]
        if stack["StackStatus"] == "DELETE_COMPLETE" and id is None:
            return None
        return State(
            id=stack["StackId"],
            status=stack["StackStatus"],
            reason=stack.get("StackStatusReason"),
            changed=stack.get("LastUpdatedTime") or stack.get("CreationTime"),
            parameters={
                p["ParameterKey"]: p.get("ParameterValue", "") for p in stack.get("Parameters", [])
            },
            outputs={o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])},
        )

    def ready(self) -> State | None:
        """Return the stack if it can be changed, None if it must be created.

        Raises
        ------
        ConflictError
            It is being changed at this moment.
        UsageError
            An earlier attempt left it in a state that it must be brought out of first.
        """
        state = self.state()
        if state is None or state.status == "REVIEW_IN_PROGRESS":
            return None
        if state.status.endswith("_IN_PROGRESS"):
            raise ConflictError(
                f"The stack {self.name} is being changed at this moment ({state.status}).",
                hint="Wait until `trilho infra status` shows its end, then run this again.",
            )
        if state.status in NEVER_WHOLE:
            kind = self.name.rsplit("-", 1)[-1]
            raise UsageError(
                f"The stack {self.name} failed earlier ({state.status}) and can only be deleted"
                f"{self._because(state)}",
                hint=f"Run `trilho infra down {kind}`, mend the cause, then run this again.",
            )
        if state.status == "UPDATE_ROLLBACK_FAILED":
            raise UsageError(
                f"The stack {self.name} could not be put back after a failed update "
                f"({state.status}){self._because(state)}",
                hint=f"Run `aws cloudformation continue-update-rollback --stack-name {self.name}`, "
                "then this again.",
            )
        return state

    def plan(
        self, template: Template, values: dict[str, str], state: State | None
    ) -> ChangeSet | None:
        """Let CloudFormation work out a change; None when there is nothing to change.

        Parameters
        ----------
        template
            The template.
        values
            Its parameters; those left out keep their value, or take their default.
        state
            The stack as `ready` returned it.
        """
        kept = [
            name
            for name in template.parameters
            if state is not None and name in state.parameters and name not in values
        ]
        with self._explained("CreateChangeSet"):
            arn = self.client.create_change_set(
                StackName=self.name,
                ChangeSetName=f"trilho-{secrets.token_hex(4)}",
                ChangeSetType="UPDATE" if state else "CREATE",
                TemplateBody=template.body,
                Capabilities=CAPABILITIES,
                Parameters=[
                    {"ParameterKey": name, "ParameterValue": value}
                    for name, value in values.items()
                ]
                + [{"ParameterKey": name, "UsePreviousValue": True} for name in kept],
            )["Id"]
        status, reason, changes = self._worked_out(arn)
        if status == "FAILED":
            self.discard(ChangeSet(arn=arn, creates=state is None, changes=[]))
            if "didn't contain changes" in reason or "No updates" in reason:
                return None
            raise UsageError(f"The stack {self.name} cannot be changed so: {reason}")
        return ChangeSet(arn=arn, creates=state is None, changes=changes)

    def discard(self, planned: ChangeSet) -> None:
        """Forget a change set, and the empty stack that it was made for."""
        with self._explained("DeleteChangeSet"):
            self.client.delete_change_set(ChangeSetName=planned.arn, StackName=self.name)
            if planned.creates:
                self.client.delete_stack(StackName=self.name)

    def apply(self, planned: ChangeSet, progress: Progress) -> State:
        """Make a planned change and wait for its end.

        Raises
        ------
        DeploymentError
            It failed and was rolled back; the message says which resources failed and why.
        """
        before = self.state()
        assert before is not None  # a change set makes the stack, if there was none
        seen = {event["EventId"] for event in self._events(before.id)}
        with self._explained("ExecuteChangeSet"):
            self.client.execute_change_set(ChangeSetName=planned.arn, StackName=self.name)
        state, failures = self._follow(before.id, seen, progress)
        if state.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            what = "created" if planned.creates else "changed"
            raise DeploymentError(
                f"The stack {self.name} could not be {what} ({state.status})"
                f"{_reasons(failures, state.reason)}",
                hint="What it was before is back."
                if state.status == "UPDATE_ROLLBACK_COMPLETE"
                else "Mend the cause; `trilho infra down` removes what is left.",
            )
        return state

    def delete(self, progress: Progress) -> None:
        """Delete the stack and wait for its end; harmless when there is none.

        Raises
        ------
        DeploymentError
            Something could not be deleted; the message says what and why.
        """
        state = self.state()
        if state is None:
            return
        seen = {event["EventId"] for event in self._events(state.id)}
        with self._explained("DeleteStack"):
            self.client.delete_stack(StackName=self.name)
        after, failures = self._follow(state.id, seen, progress)
        if after.status != "DELETE_COMPLETE":
            raise DeploymentError(
                f"The stack {self.name} could not be deleted ({after.status})"
                f"{_reasons(failures, after.reason)}",
                hint="Mend the cause, then run this again.",
            )

    def resources(self) -> list[tuple[str, str, str]]:
        """Return logical name, type and physical name of what the stack holds."""
        with self._explained("ListStackResources"):
            pages = self.client.get_paginator("list_stack_resources").paginate(StackName=self.name)
            return [
                (r["LogicalResourceId"], r["ResourceType"], r.get("PhysicalResourceId", ""))
                for page in pages
                for r in page["StackResourceSummaries"]
                if r["ResourceStatus"] != "DELETE_COMPLETE"
            ]

    # --- inside ---

    def _worked_out(self, arn: str) -> tuple[str, str, list[Change]]:
        """Wait for a change set; return its status, the reason for it, and the changes."""
        while True:
            with self._explained("DescribeChangeSet"):
                found = self.client.describe_change_set(ChangeSetName=arn, StackName=self.name)
            if found["Status"] in ("CREATE_COMPLETE", "FAILED"):
                break
            time.sleep(POLL_SECONDS)
        changes = [_change(c["ResourceChange"]) for c in found["Changes"] if "ResourceChange" in c]
        while token := found.get("NextToken"):
            with self._explained("DescribeChangeSet"):
                found = self.client.describe_change_set(
                    ChangeSetName=arn, StackName=self.name, NextToken=token
                )
            changes += [_change(c["ResourceChange"]) for c in found["Changes"]]
        return found["Status"], found.get("StatusReason", ""), changes

    def _follow(
        self, id: str, seen: set[str], progress: Progress
    ) -> tuple[State, list[dict[str, Any]]]:
        """Tell the events as they come, until the stack stands still; return those that failed."""
        failures = []
        while True:
            state = self.state(id)
            assert state is not None  # by its id even a deleted stack is known
            new = []
            for event in self._events(id):
                if event["EventId"] in seen:
                    break
                new.append(event)
            for event in reversed(new):
                seen.add(event["EventId"])
                if event["ResourceStatus"].endswith("_FAILED"):
                    failures.append(event)
                reason = event.get("ResourceStatusReason")
                progress(
                    f"{event['ResourceStatus']} {event['LogicalResourceId']} "
                    f"({short(event['ResourceType'])})" + (f": {reason}" if reason else "")
                )
            if not state.status.endswith("_IN_PROGRESS") or state.status == "REVIEW_IN_PROGRESS":
                return state, failures
            time.sleep(POLL_SECONDS)

    def _events(self, id: str) -> Iterator[dict[str, Any]]:
        """The stack's events, the newest first, asked for as far as they are wanted."""
        with self._explained("DescribeStackEvents"):
            for page in self.client.get_paginator("describe_stack_events").paginate(StackName=id):
                yield from page["StackEvents"]

    def _because(self, state: State) -> str:
        failures = [e for e in self._events(state.id) if e["ResourceStatus"].endswith("_FAILED")]
        return _reasons(failures[::-1], state.reason)

    def _explained(self, operation: str) -> AbstractContextManager[None]:
        return explained(
            f"{operation} for the stack {self.name}", needs=f"cloudformation:{operation}"
        )


def short(type: str) -> str:
    """The type of a resource for people: `S3 Bucket` for `AWS::S3::Bucket`."""
    return type.removeprefix("AWS::").replace("::", " ")


def _change(found: dict[str, Any]) -> Change:
    targets = [d.get("Target", {}) for d in found.get("Details", [])]
    names = {t.get("Name") or t.get("Attribute", "") for t in targets}
    return Change(
        action=found["Action"],
        resource=found["LogicalResourceId"],
        type=found["ResourceType"],
        replacement=found.get("Replacement", "") if found["Action"] == "Modify" else "",
        properties=sorted(names - {""}),
    )


def _reasons(failures: list[dict[str, Any]], otherwise: str | None) -> str:
    """Why it failed: the first failures, without those that only follow from them."""
    told = [
        f"{e['LogicalResourceId']} ({short(e['ResourceType'])}): "
        f"{e.get('ResourceStatusReason', 'no reason given').rstrip('.')}"
        for e in failures
        if "cancelled" not in e.get("ResourceStatusReason", "")
        and e["ResourceType"] != "AWS::CloudFormation::Stack"
    ]
    if told:
        return ": " + "; ".join(told[:5]) + "."
    return f": {otherwise.rstrip('.')}." if otherwise else "."
