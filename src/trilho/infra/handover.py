"""What GitHub must be told of the stacks: lines for a shell, none of which shows a secret."""

from __future__ import annotations

import shlex
from collections.abc import Mapping


def bootstrap(outputs: Mapping[str, str], region: str, keys: Mapping[str, list[str]]) -> list[str]:
    """Return the lines that give the repository its identities and the registry's address.

    Parameters
    ----------
    outputs
        Of the bootstrap stack.
    region
        Where it is.
    keys
        User to the days on which its keys were created.
    """
    lines = [
        _variable("AWS_REGION", region),
        _variable("TRILHO_REGISTRY", outputs["Registry"]),
        _variable("TRILHO_IMAGE_REPOSITORY", outputs["RepositoryUri"]),
    ]
    environment = outputs["Environment"]
    if "DeployRole" in outputs:
        return [
            *lines,
            _variable("AWS_ROLE_ARN", outputs["PullRequestRole"]),
            _variable("AWS_ROLE_ARN", outputs["DeployRole"], environment),
        ]
    for user, where in (
        (outputs["PullRequestUser"], None),
        (outputs["DeployUser"], environment),
    ):
        lines += _key(user, where, keys.get(user, []))
    return lines


def service(outputs: Mapping[str, str]) -> list[str]:
    """Return the lines that tell the workflows which service to deploy to."""
    return [
        _variable("TRILHO_CLUSTER", outputs["Cluster"]),
        _variable("TRILHO_SERVICE", outputs["Service"]),
        _variable("TRILHO_SERVICE_URL", outputs["ServiceUrl"]),
    ]


def _variable(name: str, value: str, environment: str | None = None) -> str:
    return f"gh variable set {name}{_in(environment)} --body {shlex.quote(value)}"


def _key(user: str, environment: str | None, created: list[str]) -> list[str]:
    """Lines that make a key and put it into GitHub, without it appearing anywhere."""
    if created:
        return [
            f"# {user} has a key of {' and '.join(created)}; for another one, first run",
            f"#   aws iam delete-access-key --user-name {user} --access-key-id ...",
        ]
    query = "AccessKey.[AccessKeyId,SecretAccessKey]"
    return [
        f"key=$(aws iam create-access-key --user-name {user} --query '{query}' --output text)",
        f"printf %s \"${{key%%$'\\t'*}}\" | gh secret set AWS_ACCESS_KEY_ID{_in(environment)}",
        f"printf %s \"${{key##*$'\\t'}}\" | gh secret set AWS_SECRET_ACCESS_KEY{_in(environment)}",
        "unset key",
    ]


def _in(environment: str | None) -> str:
    return f" --env {shlex.quote(environment)}" if environment else ""
