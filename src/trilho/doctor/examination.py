"""All checks in their order, made one by one; none of them can stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from trilho.doctor import alarms, bucket, github, identity, models, permissions, runner, service
from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, allow, document, unknown
from trilho.errors import TrilhoError, UnavailableError
from trilho.storage.aws import denies

Function = Callable[[Context], Finding | list[Finding]]


@dataclass(frozen=True)
class Check:
    """A check, by the area and the name that it has in the table.

    Parameters
    ----------
    run
        Makes it.
    needs
        The permissions that it takes, for who may not make it.
    after
        `area/name` of the check without whose success this one has nothing to look at.
    """

    area: str
    name: str
    run: Function
    needs: tuple[str, ...] = ()
    after: str = ""

    @property
    def id(self) -> str:
        return f"{self.area}/{self.name}"


NOBODY = "identity/credentials"
BUCKET, SERVICE, GITHUB = "bucket/reachable", "service/exists", "github/repository"
READ = ("s3:GetObject", "s3:ListBucket")
ECS = ("ecs:DescribeServices", "ecs:DescribeTaskDefinition")
TASKS = (*ECS, "ecs:ListTasks", "ecs:DescribeTasks")
ALARMS = (*ECS, "cloudwatch:DescribeAlarms")

CHECKS = (
    Check("runner", "python", runner.python),
    Check("runner", "image", runner.image),
    Check("runner", "pins", runner.pins),
    Check("identity", "credentials", identity.credentials),
    Check("identity", "key age", identity.key_age, ("iam:ListAccessKeys",), NOBODY),
    Check("identity", "permissions", permissions.permissions, (), NOBODY),
    Check("bucket", "reachable", bucket.reachable, ("s3:ListBucket",), NOBODY),
    Check("bucket", "versioning", bucket.versioning, ("s3:GetBucketVersioning",), BUCKET),
    Check("bucket", "encryption", bucket.encryption, ("s3:GetEncryptionConfiguration",), BUCKET),
    Check(
        "bucket", "public access", bucket.public_access, ("s3:GetBucketPublicAccessBlock",), BUCKET
    ),
    Check("bucket", "TLS only", bucket.tls_only, ("s3:GetBucketPolicy",), BUCKET),
    Check("bucket", "append-only", bucket.append_only, ("s3:GetBucketPolicy",), BUCKET),
    Check("bucket", "lifecycle", bucket.lifecycle, ("s3:GetLifecycleConfiguration",), BUCKET),
    Check("registry", "versions", models.versions, READ, NOBODY),
    Check("registry", "champion", models.champion, READ, NOBODY),
    Check("registry", "integrity", models.integrity, READ, "registry/versions"),
    Check("service", "exists", service.exists, ECS, NOBODY),
    Check("service", "tasks", service.tasks, ECS, SERVICE),
    Check("service", "rollout", service.rollout, ECS, SERVICE),
    Check("service", "circuit breaker", service.circuit_breaker, ECS, SERVICE),
    Check("service", "minimum healthy", service.minimum_healthy, ECS, SERVICE),
    Check("service", "health check", service.health_check, ECS, SERVICE),
    Check("service", "image", service.image, ECS, SERVICE),
    Check("service", "confinement", service.confinement, ECS, SERVICE),
    Check("service", "model", service.model, (*TASKS, *READ), SERVICE),
    Check("service", "address", service.address),
    Check("alarms", "deployment", alarms.deployment, ALARMS, SERVICE),
    Check("alarms", "state", alarms.state, ALARMS, SERVICE),
    Check("alarms", "actions", alarms.actions, ALARMS, SERVICE),
    Check(
        "alarms", "listeners", alarms.listeners, (*ALARMS, "sns:ListSubscriptionsByTopic"), SERVICE
    ),
    Check("github", "repository", github.repository),
    Check("github", "ruleset", github.ruleset, (), GITHUB),
    Check("github", "environment", github.reviewers, (), GITHUB),
    Check("github", "credentials", github.credentials, (), GITHUB),
    Check("github", "variables", github.variables, (), GITHUB),
)


def examine(
    c: Context, checks: tuple[Check, ...] = CHECKS
) -> Iterator[tuple[Check, list[Finding]]]:
    """Make the checks one after the other, and yield what each of them found."""
    for check in checks:
        c.tell(f"{check.area}: {check.name}")
        after = check.after
        if c.bucket is None and check.area == "registry" and after == NOBODY:
            after = ""  # a folder asks for nobody's credentials
        if after in c.unmet:
            c.unmet.add(check.id)
            found = [unknown(f"needs {after}")]
        else:
            found = _made(c, check)
        yield (
            check,
            [
                msgspec.structs.replace(f, area=check.area, check=f.check or check.name)
                for f in found
            ],
        )


def _made(c: Context, check: Check) -> list[Finding]:
    """Make one check; whatever goes wrong with it is a finding, too.

    One that came to no answer is added to the context's `unmet`; one that found trouble is not:
    there was something to look at.
    """
    c.unmet.add(check.id)
    try:
        found = check.run(c)
    except Unknown as error:
        return [unknown(error.reason, error.mend)]
    except UnavailableError as error:
        return [unknown(error.message, error.hint)]
    except TrilhoError as error:
        if denies(error.__cause__):
            return [unknown(error.message, document(*statements(c, check.needs)))]
        return [Finding(status="fail", found=error.message, mend=error.hint)]
    except Exception as error:  # our own mistake, which must not hide what else there is
        return [Finding(status="warn", found=f"this check broke: {type(error).__name__}: {error}")]
    c.unmet.discard(check.id)
    return found if isinstance(found, list) else [found]


def policy(c: Context) -> str:
    """Return the policy of an identity that may make every check, and nothing else."""
    actions = {action for check in CHECKS for action in check.needs}
    return document(*statements(c, tuple(sorted(actions))))


def statements(c: Context, actions: tuple[str, ...]) -> list[dict[str, object]]:
    """Return what grants these actions, as narrow as they can be."""
    try:
        partition = c.caller.partition
    except (TrilhoError, Unknown):
        partition = "aws"
    bucket = f"arn:{partition}:s3:::{c.bucket or 'BUCKET'}"
    below = f"{bucket}/{c.prefix}/*" if c.prefix else f"{bucket}/*"
    objects = [a for a in actions if a == "s3:GetObject"]
    buckets = [a for a in actions if a.startswith("s3:") and a not in objects]
    others = [a for a in actions if not a.startswith("s3:")]
    return [
        allow(chosen, resource)
        for chosen, resource in ((objects, below), (buckets, bucket), (others, "*"))
        if chosen
    ]
