"""Rolling back by the press of a button.

The tests tell one story in their order.
"""

from __future__ import annotations

import pytest
from world import World


@pytest.fixture(scope="module")
def three(live: World) -> World:
    """Three versions were champion, one after the other."""
    live.seed("model.params.max_iter=40")
    live.seed("model.params.max_iter=50")
    assert live.champion == 3
    return live


def test_an_unknown_version_changes_nothing(three: World) -> None:
    before = three.objects()
    run = three.dispatch("rollback.yml", version="9", reason="Complaints")
    run.expect(rollback="failure")
    assert "exit status 2" in run.log
    assert "9" in run.errors()[0].message
    assert three.objects() == before
    assert three.serving == three.digest(3)
    assert not three.github.opened()


def test_the_version_before_serves_again(three: World) -> None:
    run = three.dispatch("rollback.yml", version="", reason="Complaints since Monday")
    run.expect(rollback="success")
    assert three.champion == 2
    assert three.serving == three.digest(2)
    assert run.output("rollback", "rollback", "model-version") == "2"
    assert run.output("rollback", "rollback", "previous-version") == "3"
    assert run.output("rollback", "rollback", "service-url") == three.answers.url
    entry = three.registry.quarantined(three.digest(3))
    assert entry is not None
    assert entry.reason == "Complaints since Monday"


def test_an_issue_holds_the_facts(three: World) -> None:
    (issue,) = three.github.opened()
    assert "Complaints since Monday" in issue.body
    assert three.digest(3)[7:19] in issue.body
    assert three.digest(2)[7:19] in issue.body


def test_what_was_rolled_back_is_refused_with_the_reason(three: World) -> None:
    three.change("again", "max_iter: 30", "max_iter: 50")
    number, run = three.open_pull_request()
    run.expect(model="failure")
    assert "exit status 4" in run.log
    assert run.output("model", "train", "model-digest") == three.digest(3)
    (error,) = run.errors()
    assert "Complaints since Monday" in error.message
    assert "Complaints since Monday" in three.comment(number)
    assert set(run.artifacts) == {"report"}
    assert "Store the candidate" not in run.steps["model"]


def test_a_named_version_serves_again(three: World) -> None:
    run = three.dispatch("rollback.yml", version="v1", reason="Back to the first")
    run.expect(rollback="success")
    assert three.champion == 1
    assert three.serving == three.digest(1)
    assert three.registry.quarantined(three.digest(2)) is not None
