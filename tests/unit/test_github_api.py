"""GitHub's REST API as Trilho asks it: what is tried again, what is not, what people are told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workflows.github_api import GitHub, github_api

from trilho.errors import UsageError
from trilho.github.api import Api, ApiError
from trilho.github.comment import identity


@pytest.fixture
def github() -> Iterator[GitHub]:
    with github_api() as served:
        served.pull(7)
        yield served


@pytest.fixture
def api(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(Api, "pause", 0.01)
    return Api(github.url, github.repository, github.token)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would be made, in order; none is."""
    made: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", made.append)
    return made


BODY = {"body": "Hello."}


def test_a_list_is_read_to_its_last_page(github: GitHub, api: Api) -> None:
    for i in range(250):
        github.comment(7, f"comment {i}")
    bodies = [c["body"] for c in api.pages("issues/7/comments")]
    assert bodies == [f"comment {i}" for i in range(250)]
    asked = [r.query for r in github.sent("GET")]
    assert asked == [{"per_page": "100", "page": str(page)} for page in (1, 2, 3)]


def test_an_empty_list_is_one_page(github: GitHub, api: Api) -> None:
    assert list(api.pages("issues/7/comments")) == []
    assert len(github.requests) == 1


def test_no_list_is_read_for_ever(github: GitHub, api: Api) -> None:
    for i in range(250):
        github.comment(7, f"comment {i}")
    assert len(list(api.pages("issues/7/comments", most=2))) == 200


@pytest.mark.parametrize("status", [500, 502, 503, 0])
def test_what_can_be_repeated_is_tried_again(github: GitHub, api: Api, status: int) -> None:
    comment = github.comment(7, "old")
    github.fail("GET", "comments", status, times=2)
    github.fail("PATCH", "comments", status, times=3)
    assert len(list(api.pages("issues/7/comments"))) == 1
    api.request("PATCH", f"issues/comments/{comment.id}", body=BODY)
    assert comment.body == "Hello."


@pytest.mark.parametrize("status", [500, 0])
def test_a_post_that_may_have_been_done_is_not_sent_twice(
    github: GitHub, api: Api, status: int
) -> None:
    github.fail("POST", "comments", status, done=True)
    with pytest.raises(ApiError) as caught:
        api.request("POST", "issues/7/comments", body=BODY)
    assert caught.value.uncertain
    assert len(github.comments) == 1
    assert len(github.sent("POST")) == 1


def test_tries_are_bounded_and_further_and_further_apart(
    github: GitHub, api: Api, pauses: list[float]
) -> None:
    github.fail("GET", "comments", 503, times=99, message="Unicorn!")
    api.pause = 1.0
    with pytest.raises(ApiError, match=r"answered GET .* with 503: Unicorn!") as caught:
        api.get("issues/7/comments")
    assert pauses == [1.0, 2.0, 4.0]
    assert caught.value.exit_code == 7
    assert "later" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("status", "headers", "message", "waited"),
    [
        (429, {"Retry-After": "7"}, "Slow down", 7),
        (403, {"Retry-After": "3"}, "You have exceeded a secondary rate limit", 3),
        (403, {}, "You have exceeded a secondary rate limit", 60),
        (429, {}, "Too many", 60),
    ],
)
def test_a_rate_limit_is_waited_out_as_long_as_github_asks(
    github: GitHub,
    api: Api,
    pauses: list[float],
    status: int,
    headers: dict[str, str],
    message: str,
    waited: float,
) -> None:
    # a refused POST was not carried out, so it may be sent again
    github.fail("POST", "comments", status, headers=headers, message=message)
    api.request("POST", "issues/7/comments", body=BODY)
    assert pauses == [waited]
    assert len(github.comments) == 1


def test_the_hourly_limit_is_waited_out_when_it_ends_soon(
    github: GitHub, api: Api, pauses: list[float]
) -> None:
    reset = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 20)}
    github.fail("GET", "comments", 403, headers=reset, message="API rate limit exceeded")
    api.get("issues/7/comments")
    assert len(pauses) == 1
    assert 15 < pauses[0] <= 22


def test_a_long_limit_is_told_not_waited(github: GitHub, api: Api, pauses: list[float]) -> None:
    github.fail("GET", "comments", 429, headers={"Retry-After": "3600"}, message="Slow down")
    with pytest.raises(ApiError) as caught:
        api.get("issues/7/comments")
    assert pauses == []
    assert "3600 s" in (caught.value.hint or "")


def test_a_missing_permission_is_named_and_not_tried_again(github: GitHub, api: Api) -> None:
    api.token = github.read_token
    with pytest.raises(ApiError, match="403: Resource not accessible by integration") as caught:
        api.request("POST", "issues/7/comments", body=BODY, needs="pull-requests: write")
    assert "`pull-requests: write`" in (caught.value.hint or "")
    assert len(github.requests) == 1


def test_what_is_hidden_may_be_a_missing_permission(github: GitHub, api: Api) -> None:
    with pytest.raises(ApiError, match="404: Not Found") as caught:
        api.get("issues/99/comments", needs="pull-requests: write")
    assert "`pull-requests: write`" in (caught.value.hint or "")


def test_a_token_that_is_not_valid_is_told(github: GitHub, api: Api) -> None:
    api.token = "ghs_revoked000"
    with pytest.raises(ApiError, match="401: Bad credentials") as caught:
        api.get("issues/7/comments")
    assert "GITHUB_TOKEN" in (caught.value.hint or "")


def test_the_fields_that_github_refuses_are_named(github: GitHub, api: Api) -> None:
    with pytest.raises(ApiError, match=r"422: Validation Failed; Body is too long"):
        api.request("POST", "issues/7/comments", body={"body": "x" * 65_537})


def test_no_answer_is_told_without_addresses_of_objects() -> None:
    with github_api() as gone:
        pass
    api = Api(gone.url, gone.repository, gone.token)
    api.pause = 0.01
    with pytest.raises(ApiError, match="GitHub does not answer") as caught:
        api.request("POST", "issues/7/comments", body=BODY)
    assert "0x" not in caught.value.message
    assert caught.value.status == 0


def test_no_redirect_takes_the_token_elsewhere(github: GitHub, api: Api) -> None:
    with github_api() as other:
        github.fail("GET", "comments", 301, headers={"Location": f"{other.url}/user"})
        with pytest.raises(ApiError, match="301"):
            api.get("issues/7/comments")
        assert other.requests == []


def test_an_answer_of_another_kind_is_told(github: GitHub, api: Api) -> None:
    github.fail("GET", "comments", 200, message="I am a captive portal")
    with pytest.raises(ApiError, match="not a list"):
        list(api.pages("issues/7/comments"))


def test_the_environments_proxy_is_used(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", github.url)
    api = Api("http://github.example", github.repository, github.token)
    assert api.get("issues/7/comments") == []
    assert len(github.requests) == 1
    monkeypatch.setenv("no_proxy", "github.example")
    api = Api("http://github.example.invalid", github.repository, github.token)
    assert api.get("issues/7/comments") == []
    past = Api("http://github.example", github.repository, github.token)
    past.pause = 0.01
    with pytest.raises(ApiError, match="does not answer"):
        past.get("issues/7/comments")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.text("ab :", max_size=300),
    after=st.text("ab :", max_size=300),
    status=st.integers(400, 499),
)
def test_the_token_stands_in_no_message(
    github: GitHub, api: Api, pauses: list[float], before: str, after: str, status: int
) -> None:
    github.fail("GET", "comments", status, times=9, message=before + api.token + after)
    with pytest.raises(ApiError) as caught:
        api.get("issues/7/comments")
    github.faults.clear()
    told = f"{caught.value!r} {caught.value} {caught.value.hint}"
    assert api.token not in told
    assert api.token[:12] not in told
    assert len(caught.value.message) < 400
    assert api.token not in repr(api)


@pytest.mark.parametrize(
    ("missing", "told"), [("GITHUB_TOKEN", "env:"), ("GITHUB_REPOSITORY", "OWNER/NAME")]
)
def test_what_the_environment_lacks_is_named(
    github: GitHub, monkeypatch: pytest.MonkeyPatch, missing: str, told: str
) -> None:
    for name, value in github.environment().items():
        monkeypatch.setenv(name, value)
    assert Api.current().repository == github.repository
    monkeypatch.setenv(missing, "")
    with pytest.raises(UsageError, match=missing) as caught:
        Api.current()
    assert told in (caught.value.hint or "")


# ---- who writes


def test_a_jobs_token_writes_as_github_actions(github: GitHub, api: Api) -> None:
    assert identity(api) == "github-actions[bot]"
    assert github.sent("GET") == []  # an app's token may not ask for its user


def test_an_apps_token_writes_as_the_app(github: GitHub, api: Api) -> None:
    api.token = github.add_token("our-releaser[bot]")
    assert identity(api) == "our-releaser[bot]"


def test_an_apps_token_of_an_unknown_form_is_known_by_graphql(github: GitHub, api: Api) -> None:
    token = github.add_token("our-releaser")  # GraphQL names some apps without their ending
    github.tokens["v1.0123456789abcdef"] = github.tokens.pop(token)
    api.token = "v1.0123456789abcdef"
    assert identity(api) == "our-releaser[bot]"


def test_a_persons_token_writes_as_the_person(github: GitHub, api: Api) -> None:
    api.token = github.add_token("ana", kind="person")
    assert identity(api) == "ana"


def test_without_graphql_it_is_the_jobs_token(github: GitHub, api: Api) -> None:
    github.fail("POST", "graphql", 500)
    assert identity(api) == "github-actions[bot]"


def test_a_server_has_graphql_beside_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    with github_api(tls=True) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        assert server.url.endswith("/api/v3")
        assert identity(Api.current()) == "github-actions[bot]"
        assert [r.path for r in server.requests] == ["/graphql"]
