"""Bring a stack up to its template: first the plan, then, if somebody agrees, the change."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from trilho.infra import handover, teardown, template, values
from trilho.infra.stack import ChangeSet, Progress, Stack, State
from trilho.infra.template import FOLDER, Kind
from trilho.storage import aws
from trilho.storage.aws import explained

# the resources of service.yaml that name the model: changing one deploys what the stack names
NAME_THE_MODEL = ("Task", "Service")


@dataclass(frozen=True)
class Plan:
    """What `up` would do."""

    kind: Kind
    stack: Stack
    changes: ChangeSet | None  # None: the stack is as its template says
    state: State | None  # the stack before
    notes: list[str]  # what was found out rather than given

    def apply(self, progress: Progress) -> State:
        """Do it and return the stack after; see `Stack.apply` for how it fails."""
        if self.changes is None:
            assert self.state is not None
            return self.state
        if self.kind == "service" and self.changes.creates:
            _let_ecs_in()
        return self.stack.apply(self.changes, progress)

    def discard(self) -> None:
        """Leave everything as it is."""
        if self.changes is not None:
            self.stack.discard(self.changes)


def plan(kind: Kind, name: str, given: list[str], *, folder: Path = FOLDER) -> Plan:
    """Work out what it takes to bring a stack up to its template.

    Parameters
    ----------
    kind
        Which of the two stacks.
    name
        Begins the names of both stacks, and of what is in them.
    given
        `KEY=VALUE` texts; parameters left out keep their value, or follow from what is there.
    folder
        Where the templates are.
    """
    source = template.read(kind, folder)
    wanted = template.parse(given, source)
    stack = Stack(f"{name}-{kind}")
    state = stack.ready()
    found = (values.bootstrap if kind == "bootstrap" else values.service)(name, wanted, state)
    changes = stack.plan(source, found.values, state)
    notes = list(found.notes)
    deploys = kind == "service" and changes is not None and changes.touches(*NAME_THE_MODEL)
    if deploys and state and (carried := values.running(state)):
        # The stack still names the model that it was made with. What `trilho deploy` has moved
        # the service to since then must come through the update.
        assert changes is not None
        stack.discard(changes)
        changes = stack.plan(source, found.values | carried, state)
        notes.append(
            f"the running model goes on: version {carried['ModelVersion'] or '?'}, "
            f"{carried['ModelDigest']}, in {carried['Image']}"
        )
    return Plan(kind, stack, changes, state, notes)


def lines(kind: Kind, state: State) -> list[str]:
    """Return what to tell GitHub of a stack, as lines for a shell."""
    if kind == "service":
        return handover.service(state.outputs)
    users = [u for key in ("PullRequestUser", "DeployUser") if (u := state.outputs.get(key))]
    keys = {user: [day for _, day in known] for user, known in teardown.user_keys(users).items()}
    return handover.bootstrap(state.outputs, aws.client("cloudformation").meta.region_name, keys)


def _let_ecs_in() -> None:
    """Make the role by which ECS manages load balancers, which a new account does not have."""
    iam = aws.client("iam")
    there = contextlib.suppress(  # AWS says the first of a role that exists
        iam.exceptions.InvalidInputException, iam.exceptions.EntityAlreadyExistsException
    )
    with explained("make the role of ECS", needs="iam:CreateServiceLinkedRole"), there:
        iam.create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
