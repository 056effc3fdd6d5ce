"""GitHub: who may change the default branch, who approves, and whether names are set.

Names only: GitHub gives nobody the value of a secret.
"""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import quote

from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, bad, doubt, good, unknown
from trilho.errors import TrilhoError
from trilho.github.api import ApiError

RULESET = ".github/rulesets/main.json"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ROLE = "AWS_ROLE_ARN"
RIGHTS = (
    "# a fine-grained token of this repository with Administration, Environments, Secrets and "
    "Variables: read-only,\n# as GH_TOKEN, or as the environment's secret TRILHO_DOCTOR_TOKEN; "
    "or look yourself: "
)


def repository(c: Context) -> Finding:
    found = _repository(c)
    return good(f"{found['full_name']}, default branch {found['default_branch']}")


def ruleset(c: Context) -> Finding:
    """Whether the default branch is held to what the ruleset says."""
    branch = _repository(c)["default_branch"]
    wanted, checks = _wanted(c)
    active = list(_pages(c, f"rules/branches/{quote(branch, safe='')}"))
    missing = sorted(wanted - {rule["type"] for rule in active})
    required = {
        check["context"]
        for rule in active
        if rule["type"] == "required_status_checks"
        for check in rule.get("parameters", {}).get("required_status_checks", [])
    }
    absent = sorted(checks - required) if "required_status_checks" not in missing else []
    if not missing and not absent:
        return good(f"{branch} is held to {', '.join(sorted(wanted))}")
    told = [f"no rule {rule}" for rule in missing] + [f"{name} need not pass" for name in absent]
    return bad(
        f"{branch}: {'; '.join(told)}",
        f"gh api --method POST repos/{c.github.repository}/rulesets --input {RULESET}",
    )


def reviewers(c: Context) -> list[Finding]:
    """Whether somebody approves a deployment, and which branches may ask for one."""
    name = c.environment
    found = _environment(c)
    if found is None:
        return [
            bad(
                f"there is no environment {name}: GitHub makes one that nobody guards",
                _protect(c, {}),
            )
        ]
    rules = {rule["type"]: rule for rule in found.get("protection_rules", [])}
    people = rules.get("required_reviewers", {}).get("reviewers", [])
    branches = found.get("deployment_branch_policy")
    findings = []
    if people:
        findings.append(good(f"{len(people)} may approve", check="reviewers"))
    else:
        findings.append(
            doubt(f"nobody approves what goes to {name}", _protect(c, found), check="reviewers")
        )
    if branches is not None:
        findings.append(good("only chosen branches deploy", check="branches"))
    else:
        said = f"every branch may ask for a deployment to {name}"
        judge = doubt if people else bad  # without reviewers, whoever may push may deploy
        findings.append(judge(said, _protect(c, found), check="branches"))
    return findings


def credentials(c: Context) -> list[Finding]:
    """Whether pull requests and deployments have an identity of AWS each."""
    findings = []
    for check, where, option in (
        ("pull-request identity", "", ""),
        ("deploy identity", c.environment, f" --env {shlex.quote(c.environment)}"),
    ):
        place = f"the environment {where}" if where else "the repository"
        try:
            secrets, variables = _names(c, "secrets", where), _names(c, "variables", where)
        except (TrilhoError, Unknown) as error:
            findings.append(_untold(c, error, check))
            continue
        if ROLE in variables:
            findings.append(good(f"{place} has {ROLE}", check=check))
        elif secrets.issuperset(KEYS):
            findings.append(good(f"{place} has {' and '.join(KEYS)}", check=check))
        else:
            findings.append(
                bad(
                    f"{place} has neither {ROLE} nor both {' and '.join(KEYS)}",
                    f"gh variable set {ROLE}{option} --body arn:aws:iam::ACCOUNT:role/NAME  # or\n"
                    + "\n".join(f"gh secret set {key}{option}" for key in KEYS),
                    check=check,
                )
            )
    return findings


def variables(c: Context) -> Finding:
    """Whether the workflows know the registry and the service."""
    wanted = {"TRILHO_REGISTRY": c.registry_url if c.bucket else "s3://BUCKET/registry"}
    if c.deploy is not None:
        wanted |= {
            "TRILHO_CLUSTER": c.deploy.cluster,
            "TRILHO_SERVICE": c.deploy.service,
            "TRILHO_SERVICE_URL": c.deploy.url or "https://...",
        }
    wanted["AWS_REGION"] = "us-east-1"
    known = _names(c, "variables", "") | _names(c, "variables", c.environment)
    missing = [name for name in wanted if name not in known]
    if not missing:
        return good(", ".join(wanted))
    mend = "\n".join(f"gh variable set {n} --body {shlex.quote(wanted[n])}" for n in missing)
    # the pipeline file and the workflows have defaults for all but the registry
    judge = bad if "TRILHO_REGISTRY" in missing else doubt
    return judge(f"not set: {', '.join(missing)}", mend)


def _repository(c: Context) -> dict[str, Any]:
    return c.once("github repository", lambda: _get(c, f"/repos/{c.github.repository}"))


def _environment(c: Context) -> dict[str, Any] | None:
    def read() -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = _get(c, f"environments/{quote(c.environment, safe='')}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    return c.once("github environment", read)


def _wanted(c: Context) -> tuple[set[str], set[str]]:
    """The rules that the project's own ruleset has, and the checks that it requires."""
    try:
        rules = json.loads((c.folder / RULESET).read_text(encoding="utf-8"))["rules"]
        checks = {
            check["context"]
            for rule in rules
            if rule["type"] == "required_status_checks"
            for check in rule["parameters"]["required_status_checks"]
        }
        return {rule["type"] for rule in rules}, checks
    except (OSError, ValueError, KeyError, TypeError):
        return {"deletion", "non_fast_forward", "pull_request", "required_status_checks"}, set()


def _names(c: Context, kind: str, environment: str) -> set[str]:
    """The names of the secrets or variables of the repository, its owner's for it, or of an
    environment.
    """

    def read() -> set[str]:
        if environment:
            if _environment(c) is None:
                return set()
            return _listed(c, f"environments/{quote(environment, safe='')}/{kind}", kind)
        own = _listed(c, f"actions/{kind}", kind)
        try:
            return own | _listed(c, f"actions/organization-{kind}", kind)
        except (ApiError, Unknown):
            return own  # it belongs to a person, or that may not be seen

    return c.once(f"github {kind} {environment}", read)


def _listed(c: Context, path: str, kind: str) -> set[str]:
    names: set[str] = set()
    for page in range(1, 101):
        answer = _get(c, path, {"per_page": "30", "page": str(page)})
        names |= {item["name"] for item in answer[kind]}
        if not answer[kind] or len(names) >= answer["total_count"]:
            break
    return names


def _get(c: Context, path: str, query: dict[str, str] | None = None) -> Any:
    try:
        return c.github.get(path, query)
    except ApiError as error:
        raise _explained(c, error) from None


def _pages(c: Context, path: str) -> list[dict[str, Any]]:
    try:
        return list(c.github.pages(path))
    except ApiError as error:
        raise _explained(c, error) from None


def _explained(c: Context, error: ApiError) -> Exception:
    """What may not be seen is unknown, and no failure; what is not there is told apart."""
    if error.status == 404:
        return error
    if error.status in (401, 403):
        return Unknown(error.message, RIGHTS + f"gh secret list --repo {c.github.repository}")
    return Unknown(error.message, error.hint)


def _untold(c: Context, error: TrilhoError | Unknown, check: str) -> Finding:
    if isinstance(error, Unknown):
        return unknown(error.reason, error.mend, check=check)
    return unknown(
        error.message, RIGHTS + f"gh secret list --repo {c.github.repository}", check=check
    )


def _protect(c: Context, found: dict[str, Any]) -> str:
    """The command that guards the environment; GitHub replaces all of its rules at once."""
    rules = {rule["type"]: rule for rule in found.get("protection_rules", [])}
    people = rules.get("required_reviewers", {}).get("reviewers", [])
    body = {
        "wait_timer": rules.get("wait_timer", {}).get("wait_timer", 0),
        "reviewers": [{"type": p["type"], "id": p["reviewer"]["id"]} for p in people]
        or [{"type": "User", "id": 0}],
        "deployment_branch_policy": found.get("deployment_branch_policy")
        or {"protected_branches": True, "custom_branch_policies": False},
    }
    told = "" if people else "  # id: of who approves, `gh api users/LOGIN --jq .id`"
    return (
        f"gh api --method PUT repos/{c.github.repository}/environments/{quote(c.environment)} "
        f"--input - <<< {shlex.quote(json.dumps(body))}{told}"
    )
