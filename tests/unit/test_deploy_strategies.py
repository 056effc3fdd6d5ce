"""ECS's own deployment strategies: what is asked of ECS, what is told, and how it ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import templates
from botocore.exceptions import EndpointConnectionError
from ecs_service import Answers, answering, publish
from pydantic import ValidationError
from ruamel.yaml import YAML
from shifting_ecs import ADVANCED, BALANCER, CANARY, CLUSTER, SERVICE, ShiftingEcs, Step

from trilho.config import Deploy, Strategy
from trilho.deploy import ecs as ecs_module
from trilho.deploy import strategy as strategies
from trilho.deploy.ecs import Service
from trilho.deploy.rollback import rollback
from trilho.deploy.rollout import CHAMPION, Deployment, deploy
from trilho.deploy.watch import StoppedError, SupersededError, watch
from trilho.doctor.context import Context
from trilho.doctor.service import exists
from trilho.errors import DeploymentError, UnavailableError, UsageError
from trilho.registry import Registry, Source, open_registry

ALARMS = {"alarmNames": ["p99"], "enable": True, "rollback": True}
BREAKER = {"enable": True, "rollback": True}
HOOKS = [{"targetType": "PAUSE", "lifecycleStages": ["POST_SCALE_UP"]}]
SOUND = {"maximumPercent": 200, "minimumHealthyPercent": 100, "deploymentCircuitBreaker": BREAKER}


# --- pipeline.yaml ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "rolling", "percent": 5}, "'rolling' takes no 'percent'"),
        ({"method": "rolling", "bake_minutes": 5}, "'rolling' takes no 'bake_minutes'"),
        ({"method": "blue-green", "percent": 5}, "'blue-green' takes no 'percent'"),
        ({"method": "blue-green", "step_minutes": 5}, "'blue-green' takes no 'step_minutes'"),
        ({"method": "linear", "percent": 2.5}, "takes a 'percent' of 3 or more, not 2.5"),
        ({"method": "canary", "percent": 0.25}, "one decimal at most, not 0.25"),
        ({"method": "canary", "percent": 0}, "greater than or equal to 0.1"),
        ({"method": "canary", "bake_minutes": 1441}, "less than or equal to 1440"),
        ({"method": "all-at-once"}, "'rolling', 'canary', 'linear' or 'blue-green'"),
        ({"percent": 5}, "method\n  Field required"),
    ],
)
def test_what_does_not_go_together_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Strategy(**given)
    assert len(caught.value.errors()) == 1
    assert message in str(caught.value)


# --- what UpdateService is told ---


def service_of(ecs: ShiftingEcs, strategy: Strategy | None = None) -> Service:
    return Service(CLUSTER, SERVICE, client=ecs.client, strategy=strategy)


def updated(ecs: ShiftingEcs, strategy: Strategy | None, **options: Any) -> dict[str, Any]:
    """The deployment configuration that arrives at ECS."""
    service = service_of(ecs, strategy)
    service.update("credit:2", service.describe(), **options)
    (sent,) = ecs.sent("UpdateService")
    assert {name: sent[name] for name in ("cluster", "service", "taskDefinition")} == {
        "cluster": CLUSTER,
        "service": SERVICE,
        "taskDefinition": "credit:2",
    }
    assert sent["forceNewDeployment"] is True
    assert set(sent) == {
        "cluster",
        "service",
        "taskDefinition",
        "forceNewDeployment",
        "deploymentConfiguration",
    }
    return dict(sent["deploymentConfiguration"])


@pytest.mark.parametrize(
    ("strategy", "sent"),
    [
        (None, {"strategy": "ROLLING"}),
        ({"method": "rolling"}, {"strategy": "ROLLING"}),
        (
            {"method": "canary"},
            {
                "strategy": "CANARY",
                "bakeTimeInMinutes": 5,
                "canaryConfiguration": {"canaryPercent": 5.0, "canaryBakeTimeInMinutes": 10},
            },
        ),
        (
            {"method": "canary", "percent": 12.5, "step_minutes": 0, "bake_minutes": 0},
            {
                "strategy": "CANARY",
                "bakeTimeInMinutes": 0,
                "canaryConfiguration": {"canaryPercent": 12.5, "canaryBakeTimeInMinutes": 0},
            },
        ),
        (
            {"method": "linear", "percent": 25, "step_minutes": 3, "alarms": ["p99"]},
            {
                "strategy": "LINEAR",
                "bakeTimeInMinutes": 5,
                "linearConfiguration": {"stepPercent": 25.0, "stepBakeTimeInMinutes": 3},
                "alarms": ALARMS,
            },
        ),
        (
            {"method": "linear"},
            {
                "strategy": "LINEAR",
                "bakeTimeInMinutes": 5,
                "linearConfiguration": {"stepPercent": 10.0, "stepBakeTimeInMinutes": 6},
            },
        ),
        (
            {"method": "blue-green", "bake_minutes": 30},
            {"strategy": "BLUE_GREEN", "bakeTimeInMinutes": 30},
        ),
    ],
)
def test_each_strategy_is_sent_as_botocore_defines_it(
    strategy: dict[str, Any] | None, sent: dict[str, Any]
) -> None:
    wanted = Strategy(**strategy) if strategy else None
    assert updated(ShiftingEcs(), wanted) == SOUND | sent


def test_what_the_pipeline_does_not_name_stays_as_the_service_has_it() -> None:
    own: dict[str, Any] = {
        "strategy": "CANARY",
        "bakeTimeInMinutes": 7,
        "canaryConfiguration": {"canaryPercent": 2.0, "canaryBakeTimeInMinutes": 3},
        "alarms": ALARMS,
        "lifecycleHooks": HOOKS,
    }
    assert updated(ShiftingEcs(**own), None) == SOUND | own
    assert updated(ShiftingEcs(**own), None, at_once=True) == SOUND | own
    # another strategy takes along what is not a part of the first one: ECS refuses what is
    assert updated(ShiftingEcs(**own), Strategy(method="blue-green")) == SOUND | {
        "strategy": "BLUE_GREEN",
        "bakeTimeInMinutes": 5,
        "alarms": ALARMS,
        "lifecycleHooks": HOOKS,
    }
    assert updated(ShiftingEcs(**own), Strategy(method="rolling")) == SOUND | {
        "strategy": "ROLLING",
        "alarms": ALARMS,
    }
    early = {"earlySuccessCriteria": {"enable": True, "healthyPercent": 80}}
    assert updated(ShiftingEcs(**early), Strategy(method="rolling")) == SOUND | early | {
        "strategy": "ROLLING"
    }
    assert updated(ShiftingEcs(**early), Strategy(method="blue-green")) == SOUND | {
        "strategy": "BLUE_GREEN",
        "bakeTimeInMinutes": 5,
    }


def test_a_record_that_cannot_be_read_keeps_nobody_from_deploying() -> None:
    ecs = ShiftingEcs()

    def away(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://ecs.example")

    ecs.ListServiceDeployments = away  # type: ignore[method-assign]
    assert updated(ecs, None)["strategy"] == "ROLLING"


@pytest.mark.parametrize("method", ["canary", "linear", "blue-green"])
def test_going_back_waits_for_no_steps(method: Any) -> None:
    own = {"canaryConfiguration": {"canaryPercent": 2.0}, "strategy": "CANARY"}
    assert updated(ShiftingEcs(**own), Strategy(method=method), at_once=True) == SOUND | {
        "strategy": "BLUE_GREEN",
        "bakeTimeInMinutes": 0,
    }


def test_nothing_keeps_a_service_from_going_back(rail: Rail) -> None:
    rail.ecs.script = [ROLLED[0], *ROLLED]
    rail.ship(2)
    rail.ecs.balancers = [BALANCER]
    rail.ecs.script = [ROLLED[0], *ROLLED]
    settings = rail.settings(Strategy(method="canary", alarms=["p99"]))
    done = rollback(
        rail.registry,
        settings,
        registry_url=rail.registry.store.url,
        reason="customers complain",
        source=Source(actor="tester"),
        poll=0.001,
    )
    assert done.after.version == 1
    assert rail.ecs.sent("UpdateService")[-1]["deploymentConfiguration"] == SOUND | {
        "strategy": "ROLLING"
    }


# --- services and ECSs that have not what it takes ---


def without(*names: str) -> list[dict[str, Any]]:
    kept = {key: value for key, value in ADVANCED.items() if key not in names}
    return [BALANCER | {"advancedConfiguration": kept}]


@pytest.mark.parametrize(
    ("balancers", "lack"),
    [
        ([], "has no load balancer whose traffic could be shifted"),
        ([BALANCER], "has no alternateTargetGroupArn, productionListenerRule, roleArn"),
        (without("roleArn"), "advancedConfiguration has no roleArn"),
        (without("productionListenerRule"), "has no productionListenerRule"),
        ([*without(), BALANCER], "has no alternateTargetGroupArn"),
    ],
)
def test_a_service_that_cannot_shift_traffic_is_refused_before_anything_changes(
    balancers: list[dict[str, Any]], lack: str, rail: Rail
) -> None:
    rail.ecs.balancers = balancers
    with pytest.raises(UsageError, match=rf"strategy 'canary': .*{lack}") as caught:
        rail.ship(2, strategy=Strategy(method="canary"))
    assert "--param TrafficShifting=true" in str(caught.value.hint)
    assert not rail.ecs.sent("RegisterTaskDefinition")
    assert not rail.ecs.sent("UpdateService")
    rail.ecs.script = list(ROLLED)
    assert rail.ship(2, strategy=Strategy(method="rolling")).changed


def test_the_doctor_finds_it_before_the_first_deployment(rail: Rail) -> None:
    settings = rail.settings(Strategy(method="canary"))
    for balancers, status in ((without(), "pass"), ([BALANCER], "fail")):
        rail.ecs.balancers = balancers
        found = exists(Context(registry_url=rail.registry.store.url, deploy=settings))
        assert found.status == status
    assert "--param TrafficShifting=true" in str(found.mend)


def test_a_boto3_that_does_not_know_the_strategy_is_to_be_upgraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = ShiftingEcs().client.meta.service_model._service_description["shapes"]
    members = shapes["DeploymentConfiguration"]["members"]
    strategy = shapes[members["strategy"]["shape"]]
    monkeypatch.setitem(strategy, "enum", ["ROLLING", "BLUE_GREEN"])
    for method, known in (("blue-green", True), ("canary", False)):
        service = service_of(ShiftingEcs(), Strategy(method=method))
        if known:
            service.check(service.describe())
        else:
            refused(service, method)
    monkeypatch.delitem(members, "strategy")
    refused(service_of(ShiftingEcs(), Strategy(method="blue-green")), "blue-green")


def refused(service: Service, method: str) -> None:
    with pytest.raises(UsageError, match=f"boto3 does not know .*'{method}'") as caught:
        service.check(service.describe())
    assert "pip install --upgrade boto3" in str(caught.value.hint)


@pytest.mark.parametrize(
    "code", ["InvalidParameterException", "ClientException", "UnsupportedFeatureException"]
)
def test_an_ecs_that_refuses_the_strategy_is_quoted(code: str, rail: Rail) -> None:
    rail.ecs.refuses["UpdateService"] = (code, "Unknown deployment strategy CANARY.")
    before = rail.ecs.definition
    with pytest.raises(UsageError, match=r"strategy 'canary' .*strategy CANARY\.") as caught:
        rail.ship(2, strategy=Strategy(method="canary"))
    assert "method to rolling" in str(caught.value.hint)
    assert rail.ecs.definition == before
    assert rail.champion == 1
    assert not rail.quarantined(2)


def test_an_ecs_that_ignores_the_strategy_is_noticed_and_the_old_version_put_back(
    rail: Rail,
) -> None:
    rail.ecs.ignores_strategies = True
    rail.ecs.script = [*CANARY]
    before = rail.ecs.definition
    with pytest.raises(UsageError, match="it took the deployment, but not the strategy") as caught:
        rail.ship(2, strategy=Strategy(method="blue-green"))
    assert "serves again" in caught.value.message
    assert rail.ecs.definition == before
    assert not rail.quarantined(2)


def test_a_refusal_that_is_no_matter_of_strategy_keeps_its_own_words() -> None:
    ecs = ShiftingEcs()
    ecs.refuses["UpdateService"] = ("AccessDeniedException", "no")
    service = service_of(ecs, Strategy(method="canary"))
    with pytest.raises(UsageError, match="access denied") as caught:
        service.update("credit:2", service.describe())
    assert "ecs:UpdateService" in str(caught.value.hint)


# --- how long it waits on purpose ---


@pytest.mark.parametrize(
    ("strategy", "minutes"),
    [
        ({"method": "rolling"}, 0),
        ({"method": "blue-green", "bake_minutes": 7}, 7),
        ({"method": "canary"}, 10 + 5),
        ({"method": "linear"}, 9 * 6 + 5),
        ({"method": "linear", "percent": 33.3, "step_minutes": 2, "bake_minutes": 0}, 3 * 2),
        ({"method": "linear", "percent": 100, "step_minutes": 2, "bake_minutes": 1}, 1),
    ],
)
def test_the_minutes_that_a_strategy_waits_are_known(
    strategy: dict[str, Any], minutes: float
) -> None:
    sent = strategies.configuration(Strategy(**strategy), {})
    assert strategies.waiting_minutes(sent) == minutes


def test_a_deployment_may_take_its_waiting_on_top_of_the_timeout() -> None:
    for bake, ends in ((60, True), (0, False)):
        ecs = ShiftingEcs(script=[*CANARY[1:2] * 20, *CANARY])
        strategy = Strategy(method="blue-green", bake_minutes=bake)
        if ends:
            follow(ecs, strategy, timeout=0.001)
        else:
            with pytest.raises(
                DeploymentError, match=r"does not run after 0 seconds: new tasks st"
            ):
                follow(ecs, strategy, timeout=0.001)


# --- what is told on the way, and how it ends ---


def follow(ecs: ShiftingEcs, strategy: Strategy | None = None, *, timeout: float = 30) -> list[str]:
    """Deploy credit:2 and return the lines of progress."""
    lines: list[str] = []
    service = service_of(ecs, strategy)
    ecs.definitions.append({"taskDefinitionArn": "credit:2"})
    described = service.describe()
    service.update("credit:2", described)
    watch(
        service,
        "credit:2",
        described,
        timeout=timeout,
        poll=0.001,
        progress=lines.append,
        before=ecs.before,
    )
    return lines


TOLD = [
    "canary: 5 % of the traffic for 10 minutes, then all; the old tasks stay for 5 more minutes",
    "0 of 2 tasks run credit:2, 2 still run another revision",
    "new tasks start beside the old ones, 0 % of the traffic by now",
    "1 of 2 tasks run credit:2, 1 failed to, 2 still run another revision",
    "traffic goes to the new tasks, 5 % of the traffic by now",
    "2 of 2 tasks run credit:2, 2 still run another revision",
    "the old tasks stay for the bake time, 100 % of the traffic by now",
    "the old tasks end, 100 % of the traffic by now",
    "2 of 2 tasks run credit:2",
]


@pytest.mark.parametrize("names_the_current", [True, False], ids=["named", "listed"])
def test_stages_traffic_tasks_and_failures_are_told_as_they_come(names_the_current: bool) -> None:
    ecs = ShiftingEcs()
    ecs.names_the_current = names_the_current
    assert follow(ecs, Strategy(method="canary")) == TOLD
    assert not ecs.script  # to its very end, not to where the tasks looked well


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (
            Strategy(method="linear", percent=20, bake_minutes=0),
            "linear: 20 % more of the traffic every 6 minutes",
        ),
        (
            Strategy(method="blue-green", bake_minutes=3),
            "blue/green: all of the traffic once every new task is healthy; "
            "the old tasks stay for 3 more minutes",
        ),
    ],
)
def test_what_will_happen_is_told_first(strategy: Strategy, told: str) -> None:
    assert follow(ShiftingEcs(), strategy)[0] == told


@pytest.mark.parametrize(
    ("code", "note"),
    [("AccessDeniedException", 1), ("UnsupportedFeatureException", 0), ("InvalidAction", 0)],
)
@pytest.mark.parametrize(
    "operation",
    ["ListServiceDeployments", "DescribeServiceDeployments", "DescribeServiceRevisions"],
)
def test_where_ecs_has_no_such_record_the_tasks_alone_are_told(
    code: str, note: int, operation: str
) -> None:
    ecs = ShiftingEcs()
    ecs.names_the_current = False
    ecs.refuses[operation] = (code, "no")
    lines = follow(ecs, Strategy(method="canary"))
    assert lines[note:] == [line for line in TOLD if "tasks run" in line]
    assert all("that takes ecs:ListServiceDeployments" in line for line in lines[:note])


ROLLED: list[Step] = [
    {"status": "IN_PROGRESS", "new": 1, "old": 1},
    {"status": "SUCCESSFUL", "new": 2, "old": 0},
]


def test_a_rolling_deployment_is_told_by_its_tasks() -> None:
    assert follow(ShiftingEcs(ROLLED)) == [
        "1 of 2 tasks run credit:2, 1 still run another revision",
        "2 of 2 tasks run credit:2",
    ]


def given_up(status: str, **more: Any) -> list[Step]:
    """ECS is on its way when it gives the deployment up."""
    going = {"status": "ROLLBACK_IN_PROGRESS", "new": 1, "more": more, "back": True}
    ended = {"status": status, "new": 0, "more": more, "back": status != "STOPPED"}
    return [*CANARY[:3], going, ended]


ALARM: dict[str, Any] = {"alarms": {"status": "TRIGGERED", "triggeredAlarmNames": ["p99", "5xx"]}}
CIRCUIT = {"deploymentCircuitBreaker": {"status": "TRIGGERED", "failureCount": 3, "threshold": 3}}
HOOK = {"rollback": {"reason": "POST_SCALE_UP lifecycle hook(s) failed."}}


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        (
            given_up("ROLLBACK_SUCCESSFUL", **ALARM, statusReason="Alarms were detected."),
            DeploymentError,
            r"^ECS rolled credit:2 back: the alarm p99, 5xx went off \(Alarms were detected\)\.$",
        ),
        (
            given_up("ROLLBACK_SUCCESSFUL", **CIRCUIT),
            DeploymentError,
            r"^ECS rolled credit:2 back: its circuit breaker counted 3 failed tasks\.$",
        ),
        (
            given_up("ROLLBACK_FAILED", **CIRCUIT),
            DeploymentError,
            "^ECS gave credit:2 up and could not go back: its circuit breaker",
        ),
        (
            given_up("STOPPED", **ALARM),
            DeploymentError,
            "^ECS stopped the deployment of credit:2: the alarm p99, 5xx went off",
        ),
        (
            given_up("ROLLBACK_SUCCESSFUL", **HOOK),
            StoppedError,
            r"^ECS rolled credit:2 back: POST_SCALE_UP lifecycle hook\(s\) failed\.$",
        ),
        (
            [*CANARY[:3], {"status": "ROLLBACK_REQUESTED", "new": 2}, *given_up("STOPPED")[3:]],
            StoppedError,
            r"^ECS stopped the deployment of credit:2: somebody stopped it\.$",
        ),
    ],
)
def test_a_deployment_that_ecs_gives_up_says_why(
    script: list[Step], kind: type[DeploymentError], said: str
) -> None:
    ecs = ShiftingEcs(script)
    with pytest.raises(DeploymentError, match=said) as caught:
        follow(ecs, Strategy(method="canary"))
    assert type(caught.value) is kind
    assert not ecs.script  # not before ECS is at the end of its going back


def test_somebody_elses_deployment_is_not_taken_for_ours() -> None:
    ecs = ShiftingEcs(CANARY[:3])
    ecs.definitions.append({"taskDefinitionArn": "credit:3"})
    look = ecs.DescribeServices

    def meanwhile(**arguments: Any) -> Any:
        if len(ecs.script) == 1 and len(ecs.deployments) == 1:
            ecs.begin("credit:3")
            ecs.script = [{"status": "SUCCESSFUL", "new": 2, "old": 0}]
        return look(**arguments)

    ecs.DescribeServices = meanwhile  # type: ignore[method-assign]
    with pytest.raises(SupersededError, match="it now runs credit:3, not credit:2"):
        follow(ecs, Strategy(method="canary"))


@pytest.mark.parametrize("names_the_current", [True, False], ids=["named", "listed"])
def test_an_earlier_deployment_of_the_same_revision_is_not_taken_for_ours(
    names_the_current: bool,
) -> None:
    ecs = ShiftingEcs(given_up("ROLLBACK_SUCCESSFUL", **ALARM))
    ecs.names_the_current = names_the_current
    with pytest.raises(DeploymentError, match="the alarm"):
        follow(ecs, Strategy(method="canary"))
    # ECS names the new deployment only after it was asked twice
    ecs.script, begin, look, looks = list(CANARY), ecs.begin, ecs.DescribeServices, iter("12")

    def later(**arguments: Any) -> Any:
        if ecs.sent("UpdateService")[1:] and len(ecs.deployments) == 1 and not next(looks, ""):
            ecs.definition = ecs.before
            begin("credit:2")
        return look(**arguments)

    def at_first(arn: str) -> None:
        ecs.before, ecs.definition, ecs.target = ecs.definition, arn, arn

    ecs.DescribeServices, ecs.begin = later, at_first  # type: ignore[method-assign]
    follow(ecs, Strategy(method="canary"))
    assert not ecs.script


@pytest.mark.parametrize(
    ("script", "outcome"),
    [(CANARY, None), (given_up("ROLLBACK_SUCCESSFUL", **ALARM), "the alarm p99")],
)
def test_a_rerun_follows_the_deployment_that_a_killed_run_began(
    script: list[Step], outcome: str | None
) -> None:
    ecs = ShiftingEcs(script)
    service = service_of(ecs)
    ecs.begin("credit:2")
    described = service.describe()
    if outcome is None:
        watch(service, "credit:2", described, timeout=30, poll=0.001)
    else:
        with pytest.raises(DeploymentError, match=outcome):
            watch(service, "credit:2", described, timeout=30, poll=0.001)
    assert not ecs.script


def test_an_ecs_that_is_away_for_a_while_is_asked_again() -> None:
    ecs = ShiftingEcs()
    slow = {"DescribeServiceDeployments": ("ThrottlingException", "slow down")}
    ecs.refuses, look = dict(slow), ecs.DescribeServices

    def back(**arguments: Any) -> Any:
        if len(ecs.script) < 4:
            ecs.refuses.clear()
        return look(**arguments)

    ecs.DescribeServices = back  # type: ignore[method-assign]
    assert follow(ecs, Strategy(method="canary"))[-1] == TOLD[-1]
    ecs = ShiftingEcs()
    ecs.refuses = slow
    with pytest.raises(UnavailableError, match="follow the deployment of models/credit"):
        follow(ecs, Strategy(method="blue-green", bake_minutes=0), timeout=0.001)


# --- the whole of a deployment ---


class Rail:
    """A registry with two versions, the first of which serves, and the ECS that serves it."""

    def __init__(self, registry: Registry, ecs: ShiftingEcs, answers: Answers) -> None:
        self.registry, self.ecs, self.answers = registry, ecs, answers

    def ship(self, version: int, strategy: Strategy | None = None, **more: Any) -> Deployment:
        settings = self.settings(strategy)
        given: Any = {"registry_url": self.registry.store.url, "poll": 0.001} | more
        return deploy(self.registry, version, settings, source=Source(actor="tester"), **given)

    def settings(self, strategy: Strategy | None) -> Deploy:
        return Deploy(
            cluster=CLUSTER,
            service=SERVICE,
            url=self.answers.url,
            strategy=strategy,
            timeout_minutes=0.5,
            smoke_timeout_seconds=2,
        )

    @property
    def champion(self) -> int:
        alias = self.registry.alias(CHAMPION)
        assert alias is not None
        return alias.version

    def quarantined(self, version: int) -> bool:
        return self.registry.quarantined(self.registry.version(version).digest) is not None


@pytest.fixture
def rail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in (("AWS_REGION", "us-east-1"), ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    registry = open_registry(str(tmp_path / "registry"))
    for number in (1, 2):
        publish(registry, tmp_path / str(number), number / 5)
    ecs = ShiftingEcs(ROLLED)
    monkeypatch.setattr(ecs_module, "connect", lambda: ecs.client)
    with answering(registry) as answers:
        answers.ecs = quiet(ecs)
        made = Rail(registry, ecs, answers)
        made.ship(1)
        ecs.script, ecs.called = list(CANARY), []
        yield made


def quiet(ecs: ShiftingEcs) -> Any:
    """A look at the service that takes no step of its script."""

    class Looking:
        def describe_services(self, **_: Any) -> Any:
            return {"services": [ecs._service()]}

        def describe_task_definition(self, taskDefinition: str) -> Any:
            return ecs._definition(taskDefinition)

    return Looking()


def test_a_canary_goes_live_and_becomes_champion_last(rail: Rail) -> None:
    done = rail.ship(2, strategy=Strategy(method="canary", alarms=["p99"]))
    assert done.changed
    assert rail.champion == 2
    assert done.events[-1] == "champion is version 2"
    assert any("5 % of the traffic by now" in line for line in done.events)
    (sent,) = rail.ecs.sent("UpdateService")
    assert sent["deploymentConfiguration"]["strategy"] == "CANARY"
    assert sent["deploymentConfiguration"]["alarms"] == ALARMS
    again = rail.ship(2, strategy=Strategy(method="canary"))
    assert (again.changed, again.promoted) == (False, False)
    assert len(rail.ecs.sent("UpdateService")) == 1


def test_an_alarm_condemns_the_version_and_somebodys_stop_does_not(rail: Rail) -> None:
    before = rail.ecs.definition
    for script, condemned in (
        (given_up("ROLLBACK_SUCCESSFUL", **HOOK), False),
        (given_up("ROLLBACK_SUCCESSFUL", **ALARM), True),
    ):
        rail.ecs.script = list(script)
        with pytest.raises(DeploymentError, match=r"ECS rolled .* serves again") as caught:
            rail.ship(2, strategy=Strategy(method="canary"))
        assert caught.value.exit_code == 6
        assert rail.quarantined(2) == condemned
        assert rail.ecs.definition == before
        assert rail.champion == 1
    assert len(rail.ecs.sent("UpdateService")) == 2  # ECS went back by itself


def test_a_failed_smoke_test_goes_back_in_one_step(rail: Rail) -> None:
    rail.answers.status, rail.answers.bad = 500, rail.registry.version(2).digest
    rail.ecs.script = [*CANARY, *CANARY]
    with pytest.raises(DeploymentError, match=r"answers 500.* serves again"):
        rail.ship(2, strategy=Strategy(method="canary"))
    forth, back = (sent["deploymentConfiguration"] for sent in rail.ecs.sent("UpdateService"))
    assert forth["strategy"] == "CANARY"
    assert (back["strategy"], back["bakeTimeInMinutes"]) == ("BLUE_GREEN", 0)
    assert rail.champion == 1


# --- docs/deployment.md ---

DOCUMENT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.M | re.S)
    return str(found)


def test_the_documents_example_is_one() -> None:
    (example,) = YAML(typ="safe").load(block("yaml")).values()
    strategy = Strategy(**example["strategy"])
    assert strategy == Strategy(
        method="canary", percent=5, step_minutes=10, bake_minutes=5, alarms=strategy.alarms
    )
    alarms = templates.load("service")["Resources"].values()
    named = [r["Properties"]["AlarmName"] for r in alarms if "AlarmName" in r.get("Properties", {})]
    stack = {name["Fn::Sub"].replace("${AWS::StackName}", "trilho-service") for name in named}
    assert set(strategy.alarms) < stack


def test_the_document_shows_what_is_printed(rail: Rail) -> None:
    starting = CANARY[1] | {"failed": 0}
    # the first look is before the deployment
    steps = [CANARY[0], CANARY[0], starting | {"new": 0}, starting | {"new": 2}, *CANARY[2:]]
    rail.ecs.script = steps
    done = rail.ship(2, strategy=Strategy(method="canary"))

    def plain(text: str) -> str:
        text = re.sub(r"https?://\S+", "URL", text)
        text = re.sub(r"[\d.]+ ms", "N ms", text)
        text = re.sub(r"credit(-default)?:(\d+)", lambda m: f"R{int(m[2]) - offset}", text)
        return re.sub(r"version \d+", "version N", text)

    offset = 7
    shown = plain(block("text")).splitlines()
    offset = 2
    assert [plain(line) for line in done.events] == shown
