"""Looking whether everything is as a deployment needs it, by the press of a button."""

from __future__ import annotations

import pytest
from rail import Run
from world import World


@pytest.fixture(scope="module")
def run(empty: World) -> Run:
    """A look at a project on its first day, whose bucket and service nobody has set up."""
    before = empty.objects()
    made = empty.dispatch("doctor.yml", deep="true")
    assert empty.objects() == before
    return made


def test_both_jobs_are_red_and_say_how_to_mend_what_is_wrong(run: Run) -> None:
    run.expect(**{"pull-request": "failure", "service": "failure"})
    assert "exit status 8" in run.log
    for job, summary in run.summaries.items():
        assert run.output(job, "doctor", "outcome") == "fail"
        failures = int(run.output(job, "doctor", "failures"))
        assert failures == summary.count("| ❌ fail |") > 0
        assert "aws s3api put-bucket-versioning --bucket models" in summary
        assert "aws ecs update-service --cluster models --service credit" in summary
    assert len(run.summaries) == 2


def test_what_the_jobs_token_may_see_of_github_is_looked_at(run: Run) -> None:
    for summary in run.summaries.values():
        assert "| ✅ pass | github | repository | octo/credit, default branch main |" in summary
        assert "gh api --method PUT repos/octo/credit/environments/production" in summary
