"""What GitHub knows of one repository, and how its REST API answers; `workflows/github_api.py`
serves it.
"""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

BODY_LIMIT = 65_536
ACTIONS = "github-actions[bot]"


@dataclass(frozen=True)
class Who:
    """What a token stands for."""

    login: str
    kind: str  # installation | person
    may: frozenset[str]  # permissions to write


@dataclass
class Comment:
    id: int
    issue: int
    login: str
    body: str
    created_at: str
    updated_at: str


@dataclass
class Issue:
    number: int
    title: str
    body: str
    login: str
    state: str = "open"
    pull: Pull | None = None


@dataclass
class Pull:
    head_repo: str
    branch: str
    sha: str


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # without the query and without /api/v3
    query: dict[str, str]
    body: Any
    token: str
    status: int


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match."""

    method: str
    path: re.Pattern[str]
    status: int  # 0: the connection is cut
    times: int
    headers: dict[str, str]
    message: str
    done: bool  # the request is carried out first, only the answer is wrong
    do: Callable[[], None] | None  # something that happens just before


class RefusedError(Exception):
    def __init__(self, status: int, message: str, errors: list[Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.errors = status, message, errors


class GitHub:
    """The state. Tests write to it freely; every change by a request holds `lock`."""

    def __init__(self, repository: str = "octo/credit") -> None:
        self.repository = repository
        self.url = ""  # the REST API's root, set when it is served
        self.server_url = ""  # what GITHUB_SERVER_URL is
        self.certificate: Path | None = None
        self.comments: list[Comment] = []
        self.issues: dict[int, Issue] = {}
        self.heads: dict[str, str] = {}
        # path below the repository to what is answered there, for what has no state of its own
        self.documents: dict[str, Any] = {}
        self.approvals: list[dict[str, Any]] = []  # of any run
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.tokens: dict[str, Who] = {}
        self.lock = threading.RLock()
        self._last = 1000
        # like a job's token with `issues: write` and `pull-requests: write`
        self.token = self.add_token(ACTIONS)
        self.read_token = self.add_token(ACTIONS, may=frozenset())

    # ---- what tests set

    def add_token(
        self,
        login: str,
        *,
        kind: str = "installation",
        may: frozenset[str] = frozenset({"issues", "pull-requests"}),
    ) -> str:
        """Return a new token; `kind` is installation (of an app) or person."""
        token = f"{'ghs' if kind == 'installation' else 'ghp'}_loopback{len(self.tokens):08d}"
        self.tokens[token] = Who(login, kind, may)
        return token

    def pull(
        self,
        number: int,
        head_repo: str = "",
        branch: str = "topic",
        sha: str = "0" * 40,
        *,
        state: str = "open",
    ) -> None:
        """Open a pull request, or move the head of one that is there."""
        head = Pull(head_repo or self.repository, branch, sha)
        self.issues[number] = Issue(number, f"Pull request {number}", "", "ana", state, head)

    def comment(self, issue: int, body: str, *, login: str = "ana") -> Comment:
        """Leave a comment as somebody."""
        with self.lock:
            at = self._now()
            comment = Comment(self._next(), issue, login, body, at, at)
            self.comments.append(comment)
            return comment

    def comments_on(self, issue: int) -> list[Comment]:
        return [c for c in self.comments if c.issue == issue]

    def opened(self) -> list[Issue]:
        """The issues that are no pull requests."""
        return [issue for issue in self.issues.values() if issue.pull is None]

    def fail(
        self,
        method: str,
        path: str,
        status: int = 500,
        *,
        times: int = 1,
        headers: dict[str, str] | None = None,
        message: str = "Server Error",
        done: bool = False,
        do: Callable[[], None] | None = None,
    ) -> None:
        """Let the next `times` requests go wrong whose path (`/repos/…`) matches the pattern.

        `status` 0 cuts the connection; `done` carries the request out first; `do` is called just
        before, and with `status` -1 nothing else happens.
        """
        self.faults.append(
            Fault(method, re.compile(path), status, times, headers or {}, message, done, do)
        )

    def sent(self, method: str, path: str = "") -> list[Request]:
        """The requests of a method whose path matches the pattern."""
        return [r for r in self.requests if r.method == method and re.search(path, r.path)]

    def environment(self, token: str | None = None) -> dict[str, str]:
        """The variables that a runner sets, so that a step talks to this GitHub."""
        variables = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.url,
            "GITHUB_SERVER_URL": self.server_url,
            "GITHUB_GRAPHQL_URL": self.url.removesuffix("/v3") + "/graphql",
            "GITHUB_REPOSITORY": self.repository,
            "GITHUB_TOKEN": self.token if token is None else token,
        }
        if self.certificate is not None:
            variables |= {
                "SSL_CERT_FILE": str(self.certificate),
                "NODE_EXTRA_CA_CERTS": str(self.certificate),
            }
        return variables

    # ---- what requests do

    def answer(
        self, method: str, path: str, query: dict[str, str], body: Any, token: str
    ) -> tuple[int, Any, dict[str, str]]:
        who = self.tokens.get(token)
        if who is None:
            raise RefusedError(401, "Bad credentials")
        if path == "/user":
            if who.kind != "person":
                raise RefusedError(403, "Resource not accessible by integration")
            return 200, self._user(who.login), {}
        if match := re.fullmatch(r"/users/([^/]+)", path):
            return 200, self._user(unquote(match[1])), {}
        if path == "/graphql":
            if "viewer" not in (body or {}).get("query", ""):
                return 200, {"errors": [{"message": "only viewer is known here"}]}, {}
            return 200, {"data": {"viewer": {"login": who.login}}}, {}
        if method == "GET" and path == f"/repos/{self.repository}":
            return 200, {"full_name": self.repository, "default_branch": "main"}, {}
        prefix = f"/repos/{self.repository}/"
        if not path.startswith(prefix):
            raise RefusedError(404, "Not Found")
        return self._repository(method, path.removeprefix(prefix), query, body, who)

    def _repository(
        self, method: str, path: str, query: dict[str, str], body: Any, who: Who
    ) -> tuple[int, Any, dict[str, str]]:
        if match := re.fullmatch(r"issues/(\d+)/comments", path):
            issue = self._issue(int(match[1]))
            if method == "GET":
                found = [self._comment(c) for c in self.comments_on(issue.number)]
                return self._page(found, path, query)
            if method == "POST":
                self._may_write(who, issue)
                made = self.comment(issue.number, self._body(body), login=who.login)
                return 201, self._comment(made), {}
        if match := re.fullmatch(r"issues/comments/(\d+)", path):
            comment = next((c for c in self.comments if c.id == int(match[1])), None)
            if comment is None:
                raise RefusedError(404, "Not Found")
            if method == "GET":
                return 200, self._comment(comment), {}
            # with write access to the repository one may edit anybody's comment
            self._may_write(who, self._issue(comment.issue))
            if method == "PATCH":
                comment.body, comment.updated_at = self._body(body), self._now()
                return 200, self._comment(comment), {}
            if method == "DELETE":
                self.comments.remove(comment)
                return 204, None, {}
        if path == "issues":
            if method == "GET":
                listed = self._listed(query, list(self.issues.values()))
                return self._page([self._shown(i) for i in listed], path, query)
            if method == "POST":
                if "issues" not in who.may:
                    raise RefusedError(403, "Resource not accessible by integration")
                if not (body or {}).get("title"):
                    raise RefusedError(422, "Validation Failed", [{"field": "title"}])
                number = max(self.issues, default=0) + 1
                text = self._body(body, required=False)
                issue = Issue(number, body["title"], text, who.login)
                self.issues[number] = issue
                return 201, self._shown(issue), {}
        if (match := re.fullmatch(r"issues/(\d+)", path)) and method == "GET":
            return 200, self._shown(self._issue(int(match[1]))), {}
        if path == "pulls" and method == "GET":
            return self._page(self._pulls(query), path, query)
        if (match := re.fullmatch(r"pulls/(\d+)", path)) and method == "GET":
            issue = self._issue(int(match[1]))
            if issue.pull is None:
                raise RefusedError(404, "Not Found")
            return 200, self._shown_pull(issue), {}
        if (match := re.fullmatch(r"commits/(.+)", path)) and method == "GET":
            ref = unquote(match[1]).removeprefix("refs/").removeprefix("heads/")
            sha = self.heads.get(ref, ref if ref in self.heads.values() else None)
            if sha is None:
                raise RefusedError(422, f"No commit found for SHA: {ref}")
            return 200, {"sha": sha, "html_url": f"{self._home()}/commit/{sha}"}, {}
        if method == "GET" and re.fullmatch(r"actions/runs/\d+/approvals", path):
            return 200, self.approvals, {}
        if method == "GET" and path in self.documents:
            return 200, self.documents[path], {}
        raise RefusedError(404, "Not Found")

    def _pulls(self, query: dict[str, str]) -> list[Any]:
        state, head = query.get("state", "open"), query.get("head")
        if head is not None and ":" not in head:
            head = None  # GitHub ignores a head without an owner
        found = []
        for issue in sorted(self.issues.values(), key=lambda i: -i.number):
            if issue.pull is None or (state != "all" and issue.state != state):
                continue
            owner = issue.pull.head_repo.partition("/")[0]
            if head is not None and head != f"{owner}:{issue.pull.branch}":
                continue
            found.append(self._shown_pull(issue))
        return found

    def _listed(self, query: dict[str, str], issues: list[Issue]) -> list[Issue]:
        state = query.get("state", "open")
        found = [i for i in issues if state == "all" or i.state == state]
        if creator := query.get("creator"):
            found = [i for i in found if i.login == creator]
        return sorted(found, key=lambda i: i.number, reverse=query.get("direction") != "asc")

    def _page(
        self, items: list[Any], path: str, query: dict[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        def whole(name: str, default: int) -> int:
            text = query.get(name, "")
            return int(text) if text.isdecimal() else default

        size = min(max(whole("per_page", 30), 1), 100)
        page = max(whole("page", 1), 1)
        last = max(1, -(-len(items) // size))
        links = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
        if page >= last:
            del links["next"], links["last"]
        if page == 1:
            del links["prev"], links["first"]
        address = f"{self.url}/repos/{self.repository}/{path}?"
        link = ", ".join(
            f'<{address}{urlencode(query | {"page": str(number)})}>; rel="{rel}"'
            for rel, number in links.items()
        )
        shown = items[(page - 1) * size : page * size]
        return 200, shown, {"Link": link} if link else {}

    def _body(self, body: Any, required: bool = True) -> str:
        text = (body or {}).get("body") if isinstance(body, dict) else None
        if not isinstance(text, str) or (required and not text.strip()):
            if not required and text is None:
                return ""
            raise RefusedError(422, "Validation Failed", ["Body can't be blank"])
        if len(text) > BODY_LIMIT:
            said = f"Body is too long (maximum is {BODY_LIMIT} characters)"
            raise RefusedError(422, "Validation Failed", [said])
        return text

    def _may_write(self, who: Who, issue: Issue) -> None:
        wanted = {"pull-requests", "issues"} if issue.pull else {"issues"}
        if not wanted & who.may:
            raise RefusedError(403, "Resource not accessible by integration")

    def _issue(self, number: int) -> Issue:
        if number not in self.issues:
            raise RefusedError(404, "Not Found")
        return self.issues[number]

    def _user(self, login: str) -> dict[str, Any]:
        number = sum(login.encode())
        return {"login": login, "id": number, "type": "Bot" if "[bot]" in login else "User"}

    def _comment(self, comment: Comment) -> dict[str, Any]:
        issue = self.issues.get(comment.issue)
        kind = "pull" if issue is None or issue.pull else "issues"
        return {
            "id": comment.id,
            "url": f"{self.url}/repos/{self.repository}/issues/comments/{comment.id}",
            "html_url": f"{self._home()}/{kind}/{comment.issue}#issuecomment-{comment.id}",
            "issue_url": f"{self.url}/repos/{self.repository}/issues/{comment.issue}",
            "user": self._user(comment.login),
            "body": comment.body,
            "created_at": comment.created_at,
            "updated_at": comment.updated_at,
        }

    def _shown(self, issue: Issue) -> dict[str, Any]:
        kind = "pull" if issue.pull else "issues"
        shown: dict[str, Any] = {
            "number": issue.number,
            "title": issue.title,
            "body": issue.body,
            "state": issue.state,
            "user": self._user(issue.login),
            "html_url": f"{self._home()}/{kind}/{issue.number}",
        }
        if issue.pull:
            shown["pull_request"] = {"url": f"{self.url}/repos/{self.repository}/pulls/…"}
        return shown

    def _shown_pull(self, issue: Issue) -> dict[str, Any]:
        assert issue.pull is not None
        owner = issue.pull.head_repo.partition("/")[0]
        head = {
            "ref": issue.pull.branch,
            "sha": issue.pull.sha,
            "label": f"{owner}:{issue.pull.branch}",
            "repo": {"full_name": issue.pull.head_repo, "owner": {"login": owner}},
        }
        return self._shown(issue) | {"head": head, "base": {"ref": "main"}}

    def _home(self) -> str:
        return f"{self.server_url}/{self.repository}"

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _now(self) -> str:
        """A time that grows with every event, so that order is never a matter of luck."""
        at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        at += datetime.timedelta(seconds=self._last)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")

    def fault(self, method: str, path: str) -> Fault | None:
        """The next fault that matches, used up by one."""
        with self.lock:
            for fault in self.faults:
                if fault.method in (method, "*") and fault.path.search(path) and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None
