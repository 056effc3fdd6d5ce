"""What CloudFormation does not delete by itself: a bucket with objects, users with keys."""

from __future__ import annotations

from collections.abc import Iterable

from trilho.errors import UnavailableError, UsageError
from trilho.infra.stack import Progress, State
from trilho.storage import aws
from trilho.storage.aws import explained


def check_bucket(named: str, name: str, state: State | None) -> None:
    """Refuse to delete a bucket that is not the stack's.

    Parameters
    ----------
    named
        The bucket that shall be deleted.
    name
        The name that begins the stacks' names.
    state
        The bootstrap stack; without it the bucket must be named as `trilho infra up` names it.
    """
    with explained("ask whose account this is", needs="sts:GetCallerIdentity"):
        sts = aws.client("sts")
        usual = f"{name}-{sts.get_caller_identity()['Account']}-{sts.meta.region_name}"
    expected = (state.outputs.get("Bucket") or state.parameters.get("Bucket")) if state else usual
    if named != expected:
        raise UsageError(
            f"--delete-bucket names {named}, but the bucket of {name}-bootstrap is {expected}.",
            hint="Nothing was deleted. Name the bucket that you mean to lose.",
        )


def count(bucket: str) -> tuple[int, int]:
    """Return how many objects and bytes, old versions included, the bucket holds."""
    objects = size = 0
    with explained(f"list the bucket {bucket}", needs="s3:ListBucketVersions"):
        for page in aws.client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket):
            objects += len(page.get("Versions", [])) + len(page.get("DeleteMarkers", []))
            size += sum(version["Size"] for version in page.get("Versions", []))
    return objects, size


def delete_bucket(bucket: str, progress: Progress) -> None:
    """Delete a bucket with all that is in it, old versions included; it may be gone already."""
    s3 = aws.client("s3")
    deleted = 0
    try:
        with explained(f"delete the bucket {bucket}", needs="s3:DeleteObjectVersion"):
            pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
            for page in pages:
                found = page.get("Versions", []) + page.get("DeleteMarkers", [])
                if not found:
                    continue
                keys = [{"Key": o["Key"], "VersionId": o["VersionId"]} for o in found]
                answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
                if errors := answer.get("Errors"):
                    raise UnavailableError(
                        f"{bucket}/{errors[0]['Key']} could not be deleted: "
                        f"{errors[0]['Code']}, {errors[0].get('Message', '')}"
                    )
                deleted += len(keys)
                progress(f"{deleted:,} objects of {bucket} deleted")
            s3.delete_bucket(Bucket=bucket)
    except UsageError as error:
        if "does not exist" not in error.message:
            raise


def user_keys(users: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Return, by user, the ids of their access keys and the days on which they were created."""
    iam = aws.client("iam")
    with explained("list access keys", needs="iam:ListAccessKeys"):
        return {
            user: [
                (key["AccessKeyId"], f"{key['CreateDate']:%Y-%m-%d}")
                for key in iam.list_access_keys(UserName=user)["AccessKeyMetadata"]
            ]
            for user in users
        }


def delete_keys(keys: dict[str, list[tuple[str, str]]]) -> None:
    """Delete access keys, without which CloudFormation could not delete their users."""
    iam = aws.client("iam")
    with explained("delete access keys", needs="iam:DeleteAccessKey"):
        for user, known in keys.items():
            for id, _ in known:
                iam.delete_access_key(UserName=user, AccessKeyId=id)
