"""The monthly rehearsal of a bad deployment."""

from __future__ import annotations

from ecs_service import CLUSTER, SERVICE
from world import World


def test_a_drill_reports_the_time_to_recover_and_changes_nothing(live: World) -> None:
    before, serving = live.objects(), live.serving
    live.variables |= {
        "TRILHO_SERVICE": "production",
        "TRILHO_SERVICE_URL": "https://model.example.com",
        "TRILHO_DRILL_CLUSTER": CLUSTER,
        "TRILHO_DRILL_SERVICE": SERVICE,
        "TRILHO_DRILL_SERVICE_URL": live.answers.url,
    }
    with live.failing():
        run = live.dispatch("drill.yml")
    run.expect(drill="success")
    assert live.serving == serving
    assert live.champion == 1
    kept = {key: tag for key, tag in live.objects().items() if "/blobs/drill/" not in key}
    assert kept == before
    assert run.output("drill", "drill", "outcome") == "recovered"
    assert 0 < float(run.output("drill", "drill", "recovery-seconds")) < 120
    assert run.output("drill", "drill", "model-version") == "1"
    assert "**RECOVERED**" in run.summaries["drill"]
