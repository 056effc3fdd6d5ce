"""One comment on a pull request, kept up to date, by CML where CML does right, else by ourselves.

Ours is a comment whose first line is our marker and whose author is the identity of the token: a
marker alone can be written by anybody, and the identity alone has other comments too.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trilho.errors import TrilhoError
from trilho.github import cml
from trilho.github.api import Api, ApiError
from trilho.github.commands import cut

LIMIT = 65_000  # characters; GitHub takes 65,536, and CML appends its watermark
NEEDS = "pull-requests: write"
ACTIONS = "github-actions[bot]"  # who a job's GITHUB_TOKEN is
ATTEMPTS = 3
CUT = "\n\n_The rest was left out: a comment holds 65,536 characters._\n"


@dataclass(frozen=True)
class Comment:
    """A comment as it was when it was read."""

    id: int
    url: str
    author: str
    body: str


@dataclass(frozen=True)
class Posted:
    """Where the comment is, and what is to be said about how it came there.

    Parameters
    ----------
    url
        Its address.
    note
        Why CML was not asked, in a sentence; empty when it was.
    warnings
        What went wrong on the way.
    """

    url: str
    note: str = ""
    warnings: tuple[str, ...] = ()


def label(title: str) -> str:
    """Return the name of a comment among ours: letters, digits and single dashes.

    Titles that differ get names that differ.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    if slug and slug == title:
        return slug
    digest = hashlib.sha256(title.encode(errors="replace")).hexdigest()[:8]
    return f"{slug or 'report'}-{digest}"


def marker(name: str) -> str:
    """Return the hidden first line of the comment `name`."""
    return f"<!-- trilho comment {name} -->"


def is_ours(comment: Comment, name: str, identity: str) -> bool:
    """Whether a comment is the one called `name`, written by `identity`."""
    first = comment.body.partition("\n")[0].strip()
    return first == marker(name) and comment.author == identity


def identity(api: Api) -> str:
    """Return the login by which the token writes.

    An app's token, such as a job's GITHUB_TOKEN, may not ask `GET /user`, but GraphQL's `viewer`.
    """
    if not api.token.startswith("ghs_"):
        try:
            return str(api.get("/user")["login"])
        except ApiError as error:
            if error.status not in (403, 404):
                raise
    try:
        answer = api.request("POST", "/graphql", body={"query": "query { viewer { login } }"})
        login = str(answer["data"]["viewer"]["login"])
    except (ApiError, KeyError, TypeError):
        return ACTIONS
    return login if login.endswith("[bot]") else f"{login}[bot]"


def comments(api: Api, number: int) -> list[Comment]:
    """Return all comments of an issue or a pull request, the oldest first."""
    return [_read(item) for item in api.pages(f"issues/{number}/comments", needs=NEEDS)]


def post(
    api: Api, number: int, markdown: str, name: str, *, sha: str, by_cml: bool = True
) -> Posted:
    """Write the comment `name` on a pull request, over the one of the last push if there is one.

    Parameters
    ----------
    api, number
        The repository and the pull request.
    markdown
        What to say; cut where it is longer than a comment may be.
    name
        Tells it from other comments of ours; see `label`.
    sha
        The commit that it is about.
    by_cml
        Let CML do it where it would take the right comment.

    Raises
    ------
    ApiError
        Neither CML nor the REST API could post.
    """
    body = framed(markdown, name)
    me = identity(api)
    there = comments(api, number)
    note, warnings, done = "", [], False
    if by_cml:
        verb, note = choose(there, name, me)
        program = cml.find()
        if program is None:
            warnings.append(
                "cml is not on PATH, so the report is posted by the REST API; the action setup-cml "
                "installs it."
            )
        elif (asked := cml.api_of(cml.server())) != api.url:
            note = f"cml would talk to {asked}, not to {api.url}"
        elif verb is not None:
            try:
                _by_cml(api, program, verb, number, body, name, sha, me)
                done = True
            except TrilhoError as error:
                warnings.append(f"{error.message} So the report is posted by the REST API.")
                there = comments(api, number)  # it may have posted all the same
    if not done:
        _by_rest(api, number, body, name, me, there)
    kept, trouble = _newest(api, number, name, me)
    return Posted(kept.url, "" if warnings else note, (*warnings, *trouble))


def framed(markdown: str, name: str) -> str:
    """Return the comment's body: the marker, and so much of the Markdown as a comment holds."""
    head = marker(name) + "\n\n"
    markdown = markdown.encode(errors="replace").decode()
    if len(head) + len(markdown) > LIMIT:
        markdown = cut(markdown, LIMIT - len(head), CUT).decode()
    return head + markdown


def choose(there: list[Comment], name: str, me: str) -> tuple[cml.Verb | None, str]:
    """Say what CML may do, None for nothing, and why not `update`.

    `update` overwrites the comment that CML finds, which must be ours or none.
    """
    ours = [c for c in there if is_ours(c, name, me)]
    found = next(
        (c for c in reversed(there[: cml.SEEN]) if cml.bears_watermark(c.body, name)), None
    )
    if not ours:
        if found is None:
            return "update", ""
        return "create", f"a comment of {found.author} bears our watermark, cml would overwrite it"
    if found is not None and found.id == ours[-1].id:
        return "update", ""
    if found is not None:
        return None, f"cml would overwrite another comment, by {found.author}"
    if ours[-1] in there[: cml.SEEN]:
        return None, "our comment was not written by cml, which would not find it"
    return None, f"our comment is beyond the first {cml.SEEN}, where cml would not find it"


def _by_cml(
    api: Api,
    program: str,
    verb: cml.Verb,
    number: int,
    body: str,
    name: str,
    sha: str,
    me: str,
) -> None:
    """Let CML post, and look whether it wrote where it should."""
    written, url = cml.comment(program, verb, api, number, body, name, sha)
    found = _read(api.get(f"issues/comments/{written}", needs=NEEDS))
    if not is_ours(found, name, me):
        # somebody left a comment with our watermark between our look and CML's
        raise cml.CmlError(f"cml overwrote a comment of {found.author}, {url}.")


def _by_rest(api: Api, number: int, body: str, name: str, me: str, there: list[Comment]) -> None:
    """Update our comment, or create it."""
    for attempt in range(ATTEMPTS):
        ours = [c for c in there if is_ours(c, name, me)]
        method, path = "POST", f"issues/{number}/comments"
        if ours:
            method, path = "PATCH", f"issues/comments/{ours[-1].id}"
        try:
            api.request(method, path, body={"body": body}, needs=NEEDS)
            return
        except ApiError as error:
            deleted = method == "PATCH" and error.status == 404  # since we looked
            perhaps_done = method == "POST" and error.uncertain
            if not (deleted or perhaps_done) or attempt + 1 == ATTEMPTS:
                raise
        time.sleep(api.pause)
        there = comments(api, number)


def _newest(api: Api, number: int, name: str, me: str) -> tuple[Comment, list[str]]:
    """Return our newest comment, and delete those before it, as two runs at once leave them.

    Both runs keep the same one, whatever they saw of each other before.
    """
    ours = [c for c in comments(api, number) if is_ours(c, name, me)]
    if not ours:
        raise ApiError("The comment was posted, but is gone again.")
    for comment in ours[:-1]:
        try:
            api.request("DELETE", f"issues/comments/{comment.id}", needs=NEEDS)
        except ApiError as error:
            if error.status != 404:  # the other run was faster
                return ours[-1], [f"{comment.url} is left over. {error.message}"]
    return ours[-1], []


def _read(item: Mapping[str, Any]) -> Comment:
    try:
        return Comment(
            id=int(item["id"]),
            url=str(item["html_url"]),
            author=str((item.get("user") or {}).get("login") or ""),  # no user: account deleted
            body=str(item.get("body") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ApiError("GitHub answered with something that is not a comment.") from None
