"""boto3 clients as Trilho uses them, and AWS errors in words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trilho.errors import IntegrityError, TrilhoError, UnavailableError, UsageError

if TYPE_CHECKING:
    import boto3

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "AuthFailure",
}
_DENIED = {
    "AccessDenied",
    "AccessDeniedException",
    "AllAccessDisabled",
    "AccountProblem",
    "UnauthorizedOperation",
    "Forbidden",
    "403",
}
_WRONG_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
    "307",
}
_TRY_LATER = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "InternalServerError",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "OperationAborted",
    "ConditionalRequestConflict",
}
_BAD_CHECKSUM = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"}


def client(service: str) -> Any:
    """Return a boto3 client that retries with backoff and does not wait for ever.

    It is safe to share between threads. AWS_ENDPOINT_URL, AWS_RETRY_MODE and AWS_MAX_ATTEMPTS
    are honoured, as by every AWS tool.
    """
    with explained(f"prepare the AWS client for {service}"):
        from botocore.config import Config

        own: Any = session()  # its stubs know no service by variable
        attempts = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"total_max_attempts": 5}
        return own.client(
            service,
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=32,
                retries=attempts,  # type: ignore[arg-type]
                user_agent_extra="trilho",
            ),
        )


def session() -> boto3.session.Session:
    """Return a boto3 session in the region of AWS_REGION, else of AWS_DEFAULT_REGION or a profile.

    Empty variables are taken out of the environment: GitHub Actions leaves one for each secret that
    does not exist, and boto3 would make a region of no letters out of it.
    """
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_") and not os.environ[name]]:
        del os.environ[name]
    # boto3 by itself knows AWS_DEFAULT_REGION only
    return boto3.session.Session(region_name=os.environ.get("AWS_REGION"))


@contextlib.contextmanager
def explained(action: str, *, needs: str | None = None) -> Iterator[None]:
    """Turn what boto3 raises inside into a TrilhoError.

    Parameters
    ----------
    action
        What is tried, as in "read s3://bucket/key".
    needs
        The permissions it takes, for the hint.

    Raises
    ------
    UsageError
        Credentials, permissions, names or addresses that the caller must put right.
    UnavailableError
        AWS or the network did not answer; boto3 has retried already.
    IntegrityError
        What arrived is not what was sent.
    """
    try:
        yield
    except TrilhoError:
        raise
    except Exception as error:
        found = explain(error, action, needs=needs)
        if found is None:
            raise
        raise found from error


def explain(error: Exception, action: str, *, needs: str | None = None) -> TrilhoError | None:
    """Return the TrilhoError for what boto3 raised; None for an error that is not AWS's."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as e

    if isinstance(error, e.ClientError):
        return _answer(error, action, needs)
    if isinstance(
        error,
        e.NoCredentialsError
        | e.PartialCredentialsError
        | e.CredentialRetrievalError
        | e.SSOError
        | e.TokenRetrievalError
        | e.LoginError,
    ):
        return UsageError(f"Cannot {action}: no usable AWS credentials ({error}).", hint=_sign_in())
    if isinstance(error, e.ProfileNotFound | e.NoRegionError | e.ConfigParseError):
        return UsageError(f"Cannot {action}: {error}.", hint=_where())
    if isinstance(error, e.FlexibleChecksumError | e.ChecksumError):
        return IntegrityError(f"Cannot {action}: the answer was damaged on its way ({error}).")
    if isinstance(error, e.ParamValidationError | e.InvalidRegionError):
        return UsageError(f"Cannot {action}: {error}.")
    if isinstance(error, e.BotoCoreError | Boto3Error):
        hint = "Check the network, and AWS_ENDPOINT_URL and the proxy settings if you use them."
        return UnavailableError(f"Cannot {action}: {error}.", hint=hint)
    if isinstance(error, ValueError) and "endpoint" in str(error).lower():
        return UsageError(f"Cannot {action}: {error}.", hint="Check AWS_ENDPOINT_URL.")
    return None


def denies(error: BaseException | None) -> bool:
    """Whether AWS answered that the caller may not do this."""
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and error.response["Error"].get("Code") in _DENIED


def _sign_in() -> str:
    """How to come by credentials, here."""
    if not _in_actions():
        return (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run "
            "`aws sso login`."
        )
    # runs that Dependabot starts see its own secrets only
    app = " --app dependabot" if os.environ.get("GITHUB_ACTOR") == "dependabot[bot]" else ""
    return (
        "Set the secrets AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the variable AWS_ROLE_ARN "
        f"(Settings → Secrets and variables → Actions): `gh secret set AWS_ACCESS_KEY_ID{app}` and "
        f"`gh secret set AWS_SECRET_ACCESS_KEY{app}`, or `gh variable set AWS_ROLE_ARN --body "
        "arn:aws:iam::ACCOUNT:role/NAME`; a job with an environment may have its own, by `--env`."
    )


def _where() -> str:
    """How to name the region or the profile, here."""
    if not _in_actions():
        return "Check AWS_PROFILE, AWS_REGION and ~/.aws/config."
    return (
        "Set the variable AWS_REGION (Settings → Secrets and variables → Actions → Variables): "
        "`gh variable set AWS_REGION --body eu-west-1`."
    )


def _in_actions() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _answer(error: Any, action: str, needs: str | None) -> TrilhoError:
    """The TrilhoError for an error that AWS answered."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = str(error.response.get("Error", {}).get("Message") or code).rstrip(".")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    failed = f"Cannot {action}"
    if code in _EXPIRED:
        return UsageError(f"{failed}: the AWS credentials have expired.", hint=_sign_in())
    if code in _WRONG_CREDENTIALS:
        return UsageError(
            f"{failed}: AWS does not accept the credentials ({said}).", hint=_sign_in()
        )
    if code in _DENIED:
        hint = f"It takes {needs}. " if needs else ""
        hint += "Ask `aws sts get-caller-identity` who you are, and check that role's policy."
        return UsageError(f"{failed}: access denied ({said}).", hint=hint)
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return UsageError(
            f"{failed}: the bucket does not exist.",
            hint="Create it (infra/ does), or correct the address and AWS_REGION.",
        )
    if code in _WRONG_REGION:
        return UsageError(
            f"{failed}: the bucket is in another region ({said}).",
            hint="Set AWS_REGION to the bucket's region.",
        )
    if code == "RequestTimeTooSkewed":
        return UsageError(f"{failed}: this machine's clock is wrong.", hint="Set the clock.")
    if code == "400":  # a HEAD's answer has no body to say more
        return UsageError(
            f"{failed}: AWS refused the request, as it does when credentials have expired.",
            hint=_sign_in(),
        )
    if code in _BAD_CHECKSUM:
        return IntegrityError(f"{failed}: what arrived there is not what was sent ({said}).")
    if code in _TRY_LATER or status >= 500 or status == 429:
        return UnavailableError(
            f"{failed}: AWS does not answer properly, retries included ({said}).",
            hint="Try again later; https://health.aws.amazon.com shows known trouble.",
        )
    return UsageError(f"{failed}: AWS refused ({code}: {said}).")
