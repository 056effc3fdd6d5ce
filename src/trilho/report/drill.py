"""The summary of a drill."""

from __future__ import annotations

from trilho.report.markdown import alert, code, sentence, table


def drill(
    *, service: str, seconds: float | None, reason: str, details: dict[str, str] | None = None
) -> str:
    """Return a drill as Markdown.

    Parameters
    ----------
    service
        The staging service.
    seconds
        How long the way back took; None when the service did not recover as it must.
    reason
        Why the broken version did not stay, or what went wrong with the drill.
    details
        More facts.
    """
    if seconds is None:
        head = alert("bad", "THE DRILL FAILED", reason)
    else:
        back = f"What served before served again {seconds:.1f} s after the broken update."
        head = alert("good", "RECOVERED", back)
    rows: list[tuple[str, ...]] = [("Service", code(service))]
    if seconds is not None:
        rows += [("Time to recover", f"{seconds:.1f} s"), ("Why it did not stay", sentence(reason))]
    rows += [(sentence(key), code(value)) for key, value in (details or {}).items()]
    return f"{head}\n\n{table(('', ''), 'll', rows)}\n"
