"""Stands in for `cml comment create|update` of CML 0.20.6, as its source says it behaves.

The same tests run against the real one where TRILHO_TEST_CML names a checkout of it
(https://github.com/iterative/cml, commit a3a66c74b218b08710f42bf599b066e37cb4cba7, `npm ci
--omit=dev --ignore-scripts`), so that this file cannot drift from it.

Arguments (others: exit 1)
    comment create|update [--publish=false] [--driver=github] --repo=URL --target=pr/N
    [--watermark-title=TITLE] FILE
Environment
    REPO_TOKEN, else GITHUB_TOKEN. GITHUB_SHA stands in the watermark. No other variable counts,
    and neither GITHUB_API_URL does: github.com is served by api.github.com, every other host by
    https://HOST/api/v3.
What it does
    update: GET issues/N/comments without a page (30, the oldest), takes the last that bears the
    watermark with this title and any commit, whoever wrote it: PATCH. None: as create.
    create: POST issues/N/comments. The body is the file, an empty line, and the watermark.
    Where the real one would upload files or report home, this one fails.
Standard output
    The comment's html_url and a newline.
Standard error, exit 1
    One JSON object with `level` and `message`, GitHub's own message where it refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

IMAGE = "https://cml.dev/watermark.png"


class CmlParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        fail(message)


def fail(message: str) -> None:
    print(json.dumps({"level": "error", "message": message}), file=sys.stderr)
    sys.exit(1)


def main() -> None:
    parser = CmlParser(allow_abbrev=False)
    parser.add_argument("command", choices=["comment"])
    parser.add_argument("verb", choices=["create", "update"])
    parser.add_argument("--publish", choices=["true", "false"], default="true")
    parser.add_argument("--driver", choices=["github"])
    parser.add_argument("--repo", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--watermark-title", default="")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    if given.publish != "false":
        fail("would upload every linked file to https://asset.cml.dev")
    if not os.environ.get("ITERATIVE_DO_NOT_TRACK"):
        fail("would report to https://telemetry.cml.dev")

    kind, _, number = given.target.partition("/")
    if kind != "pr":
        fail(f'unsupported comment target "{given.target}"')
    title = f"CML watermark {given.watermark_title}".strip()
    commit = os.environ.get("GITHUB_SHA")
    mark = f'![]({IMAGE}{f"#{commit}" if commit else ""} "{title}")'
    body = {"body": f"{given.file.read_text(encoding='utf-8')}\n\n{mark}"}
    path = f"issues/{number}/comments"
    if given.verb == "update":
        wanted = re.compile(rf'!\[\]\({re.escape(IMAGE)}#[0-9a-fA-F]+ "{re.escape(title)}"\)')
        found = [c for c in ask(given.repo, "GET", path) if wanted.search(c["body"])]
        if found:
            print(ask(given.repo, "PATCH", f"issues/comments/{found[-1]['id']}", body)["html_url"])
            return
    print(ask(given.repo, "POST", path, body)["html_url"])


def ask(repository: str, method: str, path: str, body: dict[str, str] | None = None) -> Any:
    parts = urlsplit(repository)
    github = parts.hostname == "github.com"
    root = "https://api.github.com" if github else f"https://{parts.netloc}/api/v3"
    token = os.environ.get("REPO_TOKEN") or os.environ.get("GITHUB_TOKEN")
    if not token:
        fail("token not found")
    request = urllib.request.Request(
        f"{root}/repos{parts.path}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        fail(json.load(error)["message"])
    except urllib.error.URLError as error:
        fail(f"request to {root} failed, reason: {error.reason}")


if __name__ == "__main__":
    main()
