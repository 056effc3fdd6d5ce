"""botocore's errors, turned into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from trilho.errors import TrilhoError, UnavailableError, UsageError

THROTTLED = {"Throttling", "ThrottlingException", "TooManyRequestsException"} | {
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "ServerException",
    "InternalFailure",
    "RequestTimeout",
}
BAD_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAuthenticationToken",
}


class MissingError(UsageError):
    """A cluster or a service that does not exist."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn botocore's errors into ours.

    Raises
    ------
    UsageError
        No credentials, no region, no permission, or a request that ECS refuses.
    UnavailableError
        Throttled or unreachable, all retries included.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UsageError(
            f"AWS credentials: {_sentence(error)}",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or configure a role.",
        ) from None
    except NoRegionError:
        raise UsageError("No AWS region is set.", hint="Set AWS_REGION.") from None
    except (ProfileNotFound, ConfigNotFound) as error:
        raise UsageError(f"AWS configuration: {_sentence(error)}") from None
    except ClientError as error:
        raise _explain(error) from None
    except HTTPClientError as error:
        raise UnavailableError(
            f"AWS cannot be reached: {_sentence(error)}",
            hint="Check the network and AWS_REGION, then run this again: it takes over.",
        ) from None
    except BotoCoreError as error:
        raise UsageError(f"ECS would not take the request: {_sentence(error)}") from None


def _explain(error: ClientError) -> TrilhoError:
    details = error.response.get("Error", {})
    code = details.get("Code", "")
    message = (details.get("Message") or code).rstrip(".")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    operation = error.operation_name
    if code in ("ClusterNotFoundException", "ServiceNotFoundException"):
        return MissingError(message)
    if code in BAD_CREDENTIALS:
        return UsageError(
            f"AWS does not accept the credentials: {message}.",
            hint="Renew them, then run this again: it takes over.",
        )
    if code in THROTTLED or status >= 500:
        return UnavailableError(
            f"AWS did not carry out {operation}, retries included: {message}.",
            hint="Run this again: it takes over.",
        )
    if "AccessDenied" in code or "Unauthorized" in code or status == 403:
        return UsageError(
            f"AWS denies {operation}: {message}.",
            hint=f"Allow ecs:{operation} to the identity that deploys (see infra/bootstrap.yaml).",
        )
    return UsageError(f"ECS refuses {operation}: {message} ({code}).")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") + "."
