"""`trilho doctor`, away from AWS: GitHub, the runner, a registry in a folder."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from workflows.github_api import GitHub, github_api

from trilho.config import Deploy
from trilho.doctor import CHECKS, Context, Finding, examine
from trilho.doctor.findings import aws
from trilho.doctor.runner import PYTHONS
from trilho.github.api import Api
from trilho.report.doctor import doctor as summary

ROOT = Path(__file__).parents[2]
BY_ID = {check.id: check for check in CHECKS}
RULES = json.loads((ROOT / ".github/rulesets/main.json").read_text())["rules"]
VARIABLES = ["TRILHO_REGISTRY", "TRILHO_CLUSTER", "TRILHO_SERVICE", "TRILHO_SERVICE_URL"]
GITHUB_IDS = [check.id for check in CHECKS if check.area == "github"]


def names(kind: str, *listed: str) -> dict[str, Any]:
    return {"total_count": len(listed), kind: [{"name": name} for name in listed]}


def environment(**changes: Any) -> dict[str, Any]:
    reviewer = {"type": "User", "reviewer": {"id": 7, "login": "ana"}}
    return {
        "name": "production",
        "protection_rules": [{"type": "required_reviewers", "reviewers": [reviewer]}],
        "deployment_branch_policy": {"protected_branches": True, "custom_branch_policies": False},
    } | changes


def set_up(github: GitHub) -> None:
    """A repository as the documents say it should be."""
    github.documents = {
        "rules/branches/main": RULES,
        "environments/production": environment(),
        "actions/secrets": names("secrets"),
        "actions/variables": names("variables", "AWS_ROLE_ARN", "AWS_REGION", *VARIABLES),
        "environments/production/secrets": names("secrets"),
        "environments/production/variables": names("variables", "AWS_ROLE_ARN"),
    }


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    monkeypatch.setattr(Api, "pause", 0.0)
    with github_api() as served:
        set_up(served)
        for name, value in served.environment().items():
            if name != "GITHUB_ACTIONS":
                monkeypatch.setenv(name, value)
        yield served


def look(*ids: str, **changes: Any) -> list[Finding]:
    given = {
        "registry_url": "s3://models/registry",
        "deploy": Deploy(cluster="models", service="credit", url="https://model.example.com"),
        "folder": ROOT,
    }
    context = Context(**given | changes)
    return [f for _, found in examine(context, tuple(BY_ID[i] for i in ids)) for f in found]


def wrong(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.status, f.check) for f in findings if f.status != "pass"]


# --- GitHub ---


def test_a_repository_that_is_set_up_passes(github: GitHub) -> None:
    assert wrong(look(*GITHUB_IDS)) == []


def drop_rule(kind: str) -> Callable[[GitHub], None]:
    def harm(github: GitHub) -> None:
        rules = [rule for rule in RULES if rule["type"] != kind]
        github.documents["rules/branches/main"] = rules

    return harm


def drop_check(github: GitHub) -> None:
    rules = json.loads(json.dumps(RULES))
    checks = next(r for r in rules if r["type"] == "required_status_checks")["parameters"]
    checks["required_status_checks"] = [{"context": "all-green"}]
    github.documents["rules/branches/main"] = rules


def document(path: str, value: Any) -> Callable[[GitHub], None]:
    return lambda github: github.documents.update({path: value})


UNGUARDED = environment(protection_rules=[])
CASES = {
    **{
        f"no rule {rule['type']}": (
            drop_rule(rule["type"]),
            "ruleset",
            "fail",
            f"no rule {rule['type']}",
            "gh api --method POST repos/octo/credit/rulesets --input .github/rulesets/main.json",
        )
        for rule in RULES
    },
    "a check that need not pass": (
        drop_check,
        "ruleset",
        "fail",
        "model / model need not pass",
        "gh api --method POST repos/octo/credit/rulesets",
    ),
    "no environment": (
        lambda github: github.documents.pop("environments/production"),
        "environment",
        "fail",
        "no environment production",
        "gh api --method PUT repos/octo/credit/environments/production --input -",
    ),
    "nobody approves": (
        document("environments/production", UNGUARDED),
        "reviewers",
        "warn",
        "nobody approves",
        "gh api --method PUT repos/octo/credit/environments/production --input -",
    ),
    "every branch may ask": (
        document("environments/production", environment(deployment_branch_policy=None)),
        "branches",
        "warn",
        "every branch",
        "gh api --method PUT repos/octo/credit/environments/production --input -",
    ),
    "every branch may deploy": (
        document("environments/production", UNGUARDED | {"deployment_branch_policy": None}),
        "branches",
        "fail",
        "every branch",
        "gh api --method PUT repos/octo/credit/environments/production --input -",
    ),
    "pull requests have no identity": (
        document("actions/variables", names("variables", "AWS_REGION", *VARIABLES)),
        "pull-request identity",
        "fail",
        "the repository has neither AWS_ROLE_ARN",
        "gh variable set AWS_ROLE_ARN --body",
    ),
    "deployments have half a key": (
        lambda github: github.documents.update(
            {
                "environments/production/variables": names("variables"),
                "environments/production/secrets": names("secrets", "AWS_ACCESS_KEY_ID"),
            }
        ),
        "deploy identity",
        "fail",
        "the environment production has neither",
        "gh variable set AWS_ROLE_ARN --env production --body",
    ),
    "no registry": (
        document("actions/variables", names("variables", "AWS_ROLE_ARN", "AWS_REGION")),
        "variables",
        "fail",
        "not set: TRILHO_REGISTRY, TRILHO_CLUSTER",
        "gh variable set TRILHO_REGISTRY --body s3://models/registry\n"
        "gh variable set TRILHO_CLUSTER --body models\n",
    ),
    "no region": (
        document("actions/variables", names("variables", "AWS_ROLE_ARN", *VARIABLES)),
        "variables",
        "warn",
        "not set: AWS_REGION",
        "gh variable set AWS_REGION --body",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_what_is_missing_at_github_is_found(github: GitHub, what: str) -> None:
    harm, check, status, said, mend = CASES[what]
    harm(github)
    findings = {f.check: f for f in look(*GITHUB_IDS)}
    found = findings[check]
    assert (found.status, said in found.found) == (status, True), found
    assert found.mend is not None
    assert found.mend.startswith(mend)
    others = {"reviewers", "branches", check}
    if what != "no environment":
        assert {f.status for f in findings.values() if f.check not in others} == {"pass"}


def test_the_remedy_for_an_environment_keeps_what_it_has(github: GitHub) -> None:
    github.documents["environments/production"] = environment(deployment_branch_policy=None)
    (found,) = [f for f in look("github/environment") if f.status != "pass"]
    body = json.loads(shlex.split(found.mend or "", comments=True)[-1])
    assert body["reviewers"] == [{"type": "User", "id": 7}]
    assert body["deployment_branch_policy"]["protected_branches"] is True


def test_keys_do_instead_of_a_role_and_those_of_the_owner_count(github: GitHub) -> None:
    github.documents |= {
        "actions/variables": names("variables", "AWS_REGION"),
        "actions/organization-variables": names("variables", *VARIABLES),
        "actions/organization-secrets": names(
            "secrets", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
        ),
    }
    assert wrong(look(*GITHUB_IDS)) == []


def test_more_names_than_fit_on_a_page_are_all_read(github: GitHub) -> None:
    many = [f"V{i}" for i in range(40)]
    pages = {"1": many[:30], "2": many[30:]}
    real = github._repository

    def paged(method: str, path: str, query: dict[str, str], body: Any, who: Any) -> Any:
        if path != "actions/variables":
            return real(method, path, query, body, who)
        shown = [{"name": name} for name in pages[query["page"]]]
        if query["page"] == "2":
            shown += [{"name": n} for n in ("AWS_ROLE_ARN", "AWS_REGION", *VARIABLES)]
        return 200, {"total_count": 46, "variables": shown}, {}

    github._repository = paged  # type: ignore[method-assign]
    assert wrong(look(*GITHUB_IDS)) == []


@pytest.mark.parametrize("status", [403, 404])
def test_what_the_token_may_not_see_is_skipped_with_the_reason(github: GitHub, status: int) -> None:
    """As with the token of a workflow, which may list neither secrets nor variables."""
    for kind in ("secrets", "variables"):
        github.fail("GET", f"/(actions|production)/{kind}", status, times=9, message="Not for you")
    findings = {f.check: f for f in look(*GITHUB_IDS)}
    for check in ("pull-request identity", "deploy identity", "variables"):
        assert findings[check].status == "skip"
        assert "Not for you" in findings[check].found
    assert "Secrets and Variables: read-only" in (findings["deploy identity"].mend or "")
    assert findings["ruleset"].status == findings["reviewers"].status == "pass"


def test_without_a_token_or_a_repository_github_is_skipped(
    github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "")
    first, *others = look(*GITHUB_IDS)
    assert (first.status, first.mend) == ("skip", "export GH_TOKEN=$(gh auth token)")
    assert {f.status for f in others} == {"skip"}
    monkeypatch.setenv("GH_TOKEN", github.token)
    assert wrong(look(*GITHUB_IDS)) == []
    monkeypatch.delenv("GITHUB_REPOSITORY")
    first, *others = look(*GITHUB_IDS)
    assert "GITHUB_REPOSITORY is not set" in first.found
    assert {f.status for f in others} == {"skip"}


def test_when_github_does_not_answer_that_is_no_pass_and_no_crash(github: GitHub) -> None:
    github.fail("GET", "/rules/", 502, times=9)
    (found, *_) = look("github/ruleset", "github/environment")
    assert (found.status, "502" in found.found) == ("skip", True)
    github.fail("GET", "^/repos/octo/credit$", 0, times=9)
    assert {f.status for f in look(*GITHUB_IDS)} == {"skip"}


def test_a_project_without_a_ruleset_of_its_own_is_held_to_the_least(
    github: GitHub, tmp_path: Path
) -> None:
    least = {"deletion", "non_fast_forward", "pull_request", "required_status_checks"}
    github.documents["rules/branches/main"] = [{"type": kind} for kind in least]
    assert wrong(look("github/ruleset", folder=tmp_path)) == []
    github.documents["rules/branches/main"] = []
    assert wrong(look("github/ruleset", folder=tmp_path)) == [("fail", "ruleset")]


# --- the runner ---


def at(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def test_the_pythons_are_those_that_trilho_takes() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    taken = SpecifierSet(text.partition('requires-python = "')[2].partition('"')[0])
    assert set(PYTHONS) == {f"3.{minor}" for minor in range(40) if f"3.{minor}" in taken}


@pytest.mark.parametrize(
    ("version", "day", "status"),
    [
        ("3.11.7", "2026-11-21", "pass"),
        ("3.11.7", "2027-09-01", "warn"),
        ("3.11.7", "2028-01-01", "fail"),
        ("3.10.4", "2026-11-21", "fail"),
        ("3.14.1", "2028-01-01", "pass"),
    ],
)
def test_a_python_that_nobody_mends_is_found(
    monkeypatch: pytest.MonkeyPatch, version: str, day: str, status: str
) -> None:
    monkeypatch.setattr(platform, "python_version_tuple", lambda: tuple(version.split(".")))
    (found,) = look("runner/python", today=at(day))
    assert found.status == status
    assert (found.mend is None) == (status == "pass")


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, "skip"),
        ({"RUNNER_OS": "Linux"}, "skip"),
        ({"RUNNER_OS": "Windows", "ImageOS": "win25"}, "warn"),
        ({"RUNNER_OS": "Linux", "ImageOS": "ubuntu24", "ImageVersion": "20261101.1"}, "pass"),
        ({"RUNNER_OS": "Linux", "ImageOS": "ubuntu22"}, "warn"),
        ({"RUNNER_OS": "Linux", "ImageOS": "ubuntu18"}, "warn"),
    ],
)
def test_the_runners_image_is_judged_where_the_runner_names_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], status: str
) -> None:
    for name in ("RUNNER_OS", "ImageOS", "ImageVersion"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (found,) = look("runner/image", today=at("2026-12-01"))
    assert found.status == status


def test_an_action_that_is_not_pinned_is_named(tmp_path: Path) -> None:
    assert wrong(look("runner/pins")) == []  # Trilho's own
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    pinned = "actions/cache@" + "a" * 40
    file = folder / "ci.yml"
    lines = [f"uses: {pinned} # v6", "uses: ./x", "- uses: 'acme/trilho/.github/actions/train@v1'"]
    file.write_text("\n".join(lines))
    assert wrong(look("runner/pins", folder=tmp_path)) == []
    file.write_text("\n".join([*lines, "  - uses: actions/checkout/sub@v7", "  # uses: a/b@v1"]))
    (found,) = look("runner/pins", folder=tmp_path)
    assert found.status == "warn"
    assert found.found.endswith("other code: actions/checkout/sub@v7 (ci.yml)")
    assert (found.mend or "").startswith("gh api repos/actions/checkout/commits/v7 --jq .sha")
    assert [f.status for f in look("runner/pins", folder=folder)] == ["skip"]


# --- a registry in a folder ---


def test_a_registry_in_a_folder_needs_nobodys_credentials(tmp_path: Path) -> None:
    from ecs_service import publish

    from trilho.registry import CHAMPION, Source, keys, open_registry

    registry = open_registry(str(tmp_path / "registry"))
    ids = [check.id for check in CHECKS if check.area in ("identity", "bucket", "registry")]
    given = {"registry_url": str(tmp_path / "registry"), "deploy": None}
    empty = {f"{f.area}/{f.check}": f.status for f in look(*ids, **given)}
    assert set(empty.values()) == {"skip"}

    version = publish(registry, tmp_path / "bundle", 0.5)
    registry.move_alias(CHAMPION, version.number, expected=None, source=Source(actor="t"))
    findings = look(*ids, **given, deep=True)
    assert {f.status for f in findings if f.area == "registry"} == {"pass"}
    assert {f.status for f in findings if f.area != "registry"} == {"skip"}

    digest = registry.read_manifest(version.digest).files["golden.json"].sha256
    (tmp_path / "registry" / keys.blob(digest)).unlink()
    (found,) = look("registry/integrity", **given)
    assert found.status == "fail"
    assert keys.blob(digest) in (found.mend or "")


# --- what is shown ---


def test_a_summary_has_the_worst_on_top_and_interprets_nothing(tmp_path: Path) -> None:
    findings = [
        Finding(status="pass", area="a", check="one", found="good"),
        Finding(status="warn", area="a", check="two", found="so <b>so</b>", mend="x `y`"),
        Finding(status="fail", area="b", check="three", found="bad @all", mend="aws mend\n```"),
        Finding(status="skip", area="b", check="four", found="unknown | x"),
    ]
    text = summary(findings)
    assert text.index("**FAIL**") < text.index("aws mend") < text.index("x `y`")
    assert "4 checks: 1 pass, 1 skip, 1 warn, 1 fail" in text
    assert "<b>" not in text
    assert "@all" not in text
    assert "````sh\naws mend" in text
    assert "unknown \\| x" in text
    assert "**PASS**" in summary(findings[:1])
    assert "**WARN**" in summary(findings[:2])


def test_a_command_can_be_copied_into_a_shell() -> None:
    text = aws("s3api", "put-x", bucket="a b", some_setting={"K": ["v"]}, flag=True)
    assert shlex.split(text) == [
        *("aws", "s3api", "put-x", "--bucket", "a b"),
        *("--some-setting", '{"K": ["v"]}', "--flag", "true"),
    ]
