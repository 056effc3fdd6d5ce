"""The issue that a rollback opens: the facts, and what somebody must do next."""

from __future__ import annotations

from trilho.report.markdown import alert, code, sentence, table

DONE = (
    "Find out why {before} was bad, and add the gate, the limit or the schema check that would "
    "have noticed it.",
    "Mend or revert the change that made it: the default branch still holds it. {before} itself is "
    "quarantined, and nothing deploys it again; the next merge that changes the model is judged "
    "and deployed as ever.",
    "Close this issue.",
)
PASSED_OVER = (
    "Mend what was passed over before anything else: until then the next rollback has less to go "
    "back to."
)
FAILED = (
    "Look at the service first: what is said above ends with what serves now.",
    "Mend what the reason names, then run the rollback again, or name another version to go to; "
    "`trilho models` lists them.",
    "A rollback that is run again adds to this issue.",
)


def alarm(passed_over: list[str]) -> str:
    """Return as Markdown that a rollback went further back than it should have had to."""
    return alert("bad", "ALARM", " ".join(passed_over))


def rollback_issue(
    *,
    name: str,
    service: str,
    before: tuple[str, str],
    after: tuple[str, str] | None,
    reason: str,
    actor: str,
    run_url: str | None,
    failure: str | None = None,
    passed_over: list[str] | None = None,
) -> tuple[str, str]:
    """Return title and body, in Markdown.

    Parameters
    ----------
    name, service
        The pipeline and the ECS service.
    before, after
        Version (such as `v3`) and digest, of what was rolled back and of what serves again, or was
        to; None when it was not found out.
    reason
        Why, as somebody wrote it: shown as text, whatever is in it.
    actor, run_url
        Who did it, and the page of the run.
    failure
        Why the rollback failed; None when it did not.
    passed_over
        Versions that were nearer and could not be gone back to, each with its reason.
    """
    to = after[0] if after else "the version before"
    todo: tuple[str, ...]
    if failure is None:
        title = f"{name}: rolled back from {before[0]} to {to}"
        head = alert("unsure", "ROLLED BACK", f"{to} serves again; {before[0]} is quarantined.")
        todo = DONE
        if passed_over:
            title += ", past what is broken"
            head = f"{alarm(passed_over)}\n\n{head}"
            todo = (PASSED_OVER, *DONE)
    else:
        title = f"{name}: the rollback from {before[0]} to {to} failed"
        head = alert("bad", "ROLLBACK FAILED", failure)
        todo = FAILED
    facts: list[tuple[str, ...]] = [
        ("Service", code(service)),
        ("From", f"{before[0]} {code(before[1])}"),
        ("To", f"{after[0]} {code(after[1])}" if after else sentence(to)),
        ("Serves now", sentence(to) if failure is None else "see above, as far as is known"),
        ("Reason", sentence(reason)),
        ("By", code(actor)),
        ("Run", f"[workflow run]({run_url})" if run_url else "not on GitHub Actions"),
    ]
    steps = "\n".join(f"- [ ] {line.format(before=before[0])}" for line in todo)
    return title, f"{head}\n\n{table(('', ''), 'll', facts)}\n\n### What to do next\n\n{steps}\n"
