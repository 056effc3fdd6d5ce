"""The summary of a deployment or a rollback."""

from __future__ import annotations

from trilho.report.markdown import alert, code, sentence, table


def deployment(
    *,
    service: str,
    outcome: str,
    before: tuple[str, str] | None,
    after: tuple[str, str],
    reason: str | None = None,
    smoke: str | None = None,
    details: dict[str, str] | None = None,
) -> str:
    """Return a deployment as Markdown, what went wrong first.

    Parameters
    ----------
    service
        The ECS service.
    outcome
        `deployed`, `unchanged`, `rolled back` (by Trilho, after a failure), or `failed` (and the
        old version does not serve again).
    before, after
        Version (such as `v3`) and digest, of what served and of what was to serve.
    reason
        Why it failed.
    smoke
        What the smoke test found.
    details
        More facts, such as the task definition and the time it took.
    """
    served = f"Version {after[0]} serves"
    match outcome:
        case "deployed":
            head = alert("good", "DEPLOYED", f"{served}.")
        case "unchanged":
            head = alert("good", "UNCHANGED", f"{served} already; nothing was done.")
        case "rolled back":
            kept = f"version {before[0]} serves again" if before else "nothing serves"
            head = alert("bad", "ROLLED BACK", f"{reason or 'The deployment failed.'} Now {kept}.")
        case _:
            head = alert("bad", outcome.upper(), reason or "The deployment failed.")
    rows: list[tuple[str, ...]] = [
        ("Service", code(service)),
        ("Before", f"{sentence(before[0])} {code(before[1])}" if before else "nothing"),
        ("Asked for", f"{sentence(after[0])} {code(after[1])}"),
    ]
    if smoke is not None:
        rows.append(("Smoke test", sentence(smoke)))
    rows += [(sentence(key), code(value)) for key, value in (details or {}).items()]
    return f"{head}\n\n{table(('', ''), 'll', rows)}\n"


def superseded(*, service: str, commit: str) -> str:
    """Return as Markdown that a newer commit was pushed, and that its run deploys."""
    head = alert(
        "muted", "SUPERSEDED", "A newer commit was pushed meanwhile; nothing was done here."
    )
    rows: list[tuple[str, ...]] = [("Service", code(service)), ("To be deployed", code(commit))]
    return f"{head}\n\n{table(('', ''), 'll', rows)}\n"
