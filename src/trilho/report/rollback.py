"""The issue that a rollback opens: the facts, and what somebody must do next."""

from __future__ import annotations

from trilho.report.markdown import alert, code, sentence, table

DONE = (
    "{before} is quarantined: nothing deploys or promotes it again.",
    "The default branch still holds what made it. Mend or revert that change: the next merge that "
    "changes the model goes through the gates and is deployed.",
    "Close this issue when it is clear why {before} was bad and the gates or the schema would "
    "notice it.",
)
FAILED = (
    "Look at the service first: the reason above ends with what serves now, as far as is known.",
    "Mend what the reason names, then run the rollback again, or name another version to go to; "
    "`trilho models` lists them.",
    "A rollback that is run again adds to this issue.",
)


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
    """
    to = after[0] if after else "the version before"
    if failure is None:
        title = f"{name}: rolled back from {before[0]} to {to}"
        head = alert("unsure", "ROLLED BACK", f"{to} serves again; {before[0]} is quarantined.")
        todo = DONE
    else:
        title = f"{name}: the rollback from {before[0]} to {to} failed"
        head = alert("bad", "ROLLBACK FAILED", failure)
        todo = FAILED
    facts: list[tuple[str, ...]] = [
        ("Service", code(service)),
        ("From", f"{before[0]} {code(before[1])}"),
        ("To", f"{after[0]} {code(after[1])}" if after else sentence(to)),
        ("Reason", sentence(reason)),
        ("By", code(actor)),
        ("Run", f"[workflow run]({run_url})" if run_url else "not on GitHub Actions"),
    ]
    steps = "\n".join(f"- [ ] {line.format(before=before[0])}" for line in todo)
    return title, f"{head}\n\n{table(('', ''), 'll', facts)}\n\n### What to do next\n\n{steps}\n"
