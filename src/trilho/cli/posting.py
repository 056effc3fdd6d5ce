"""What the verbs post to GitHub: the report as a comment, a rollback as an issue.

Nothing here fails a verb. What could not be posted stands in the job summary, and a warning says
which permission is missing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trilho.cli.console import notice, say, step, warn
from trilho.errors import TrilhoError

if TYPE_CHECKING:
    from trilho.github.api import Api
    from trilho.github.comment import Posted
    from trilho.github.event import PullRequest
    from trilho.registry import Source


def comment(report: Path, *, name: str, title: str | None) -> str:
    """Post a report to the pull request of this run; return the comment's address, or nothing."""
    from trilho.github import comment as comments
    from trilho.github import event
    from trilho.github.api import Api
    from trilho.report.markdown import sentence

    with step("comment") as now:
        try:
            pull = event.current().pull_request
            if pull is None:
                why = "this run is not a pull request's"
            elif pull.from_fork and os.environ.get("GITHUB_EVENT_NAME") == "pull_request":
                why = "the run of a fork may not; the workflow report-fork.yml does"
            else:
                api = Api.current()
                why = _moved(api, pull)
            if pull is None or why:
                now.close(f"not posted: {why}", "same")
                notice(f"The report was not posted as a comment: {why}.")
                return ""
            markdown = report.read_text(encoding="utf-8")
            if title:
                markdown = f"# {sentence(title)}\n\n{markdown}"
            now.tell(f"pull request #{pull.number}")
            label = comments.label(title or name)
            posted = comments.post(api, pull.number, markdown, label, sha=pull.head.sha)
        except TrilhoError as error:
            now.close("not posted", "warn")
            _could_not("The report was not posted as a comment; the job summary holds it.", error)
            return ""
        now.close(posted.url)
    _tell(posted)
    return posted.url


def fork(numbers: Path, *, title: str | None, wanted: bool) -> str:
    """Show what a fork's run computed, and post it if `wanted`; return the comment's address.

    Raises
    ------
    UsageError
        This workflow follows no run of a pull request.
    DataError
        The file is not what `trilho report` writes.
    """
    from trilho import github
    from trilho.github import comment as comments
    from trilho.github import fork as forks
    from trilho.github.api import Api
    from trilho.report.fork import fork_report
    from trilho.report.numbers import read_numbers

    run = forks.run()
    given = read_numbers(numbers)
    markdown = fork_report(given, title=title, sha=run.head_sha, run_url=run.html_url)
    github.add_summary(markdown)
    if not wanted:
        return ""
    with step("comment") as now:
        try:
            api = Api.current()
            found = forks.pull_request(api, run)
            if found.number is None:
                now.close(f"not posted: {found.why}", "same")
                notice(found.why)
                return ""
            label = comments.label(title) if title else "fork"
            # CML is not asked: no more code than needed beside what a stranger sent
            posted = comments.post(
                api, found.number, markdown, label, sha=run.head_sha, by_cml=False
            )
        except TrilhoError as error:
            now.close("not posted", "warn")
            _could_not("The figures were not posted as a comment.", error)
            return ""
        now.close(posted.url)
    _tell(posted)
    return posted.url


def issue(
    *,
    name: str,
    service: str,
    before: tuple[str, str],
    after: tuple[str, str] | None,
    source: Source,
    failure: str | None = None,
    passed_over: list[str] | None = None,
    again: bool = True,
) -> str:
    """Open an issue about a rollback; return its address, or nothing.

    Parameters
    ----------
    name, service, before, after, failure, passed_over
        As for `rollback_issue`.
    source
        Who did it and why.
    again
        Add the facts to an issue that is open already.
    """
    from trilho.github import comment as comments
    from trilho.github import issue as issues
    from trilho.github.api import Api
    from trilho.report.rollback import rollback_issue

    title, body = rollback_issue(
        name=name,
        service=service,
        before=before,
        after=after,
        reason=source.reason or "",
        actor=source.actor,
        run_url=source.run_url,
        failure=failure,
        passed_over=passed_over,
    )
    key = comments.label(f"rollback {service} {before[1]}")
    with step("issue") as now:
        try:
            opened = issues.open_once(Api.current(), key, title, body, again=again)
        except TrilhoError as error:
            now.close("not opened", "warn")
            _could_not("No issue was opened; the job summary holds the facts.", error)
            return ""
        now.close(opened.url, "done" if opened.new else "same")
    return opened.url


def _moved(api: Api, pull: PullRequest) -> str:
    """Why this run's report is not the newest any more, as far as GitHub says; else nothing."""
    try:
        head = api.get(f"pulls/{pull.number}")["head"]["sha"]
    except (TrilhoError, KeyError, TypeError):
        return ""
    if head == pull.head.sha:
        return ""
    return f"a newer commit was pushed, {str(head)[:12]}, and its own run reports"


def _tell(posted: Posted) -> None:
    for warning in posted.warnings:
        warn(warning)
    if posted.note:
        say(f"  {posted.note}", dim=True)


def _could_not(what: str, error: TrilhoError) -> None:
    warn(" ".join(filter(None, (what, error.message, error.hint))))
