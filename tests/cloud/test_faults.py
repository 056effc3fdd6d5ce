"""Faults between a deployment and AWS: whatever happens, a bad deployment never stays.

Each test ends with the old version in service, the alias where it was and a reason on top, or with
a rerun that finishes the job. What fails inside ECS or in the service itself stands in
test_deploy.py, real containers in test_containers.py.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from ecs_service import CLUSTER, SERVICE, Answers, answering
from embedded_aws import embedded_aws
from faults import EXPIRED, THROTTLED, TIMES_OUT, Line, after, from_call, only
from manifests import manifest

from trilho import bundle
from trilho.bundle import Golden
from trilho.config import Deploy
from trilho.demo import ministack
from trilho.deploy import rollout
from trilho.deploy import smoke as smoke_module
from trilho.deploy.revision import MODEL_DIGEST
from trilho.deploy.rollback import rollback
from trilho.deploy.rollout import Deployment, deploy
from trilho.errors import DeploymentError, IntegrityError, TrilhoError, UnavailableError
from trilho.registry import CHAMPION, QuarantinedError, Registry, Source, Version, open_registry

BY = Source(actor="tester", run_url="https://github.example/o/r/actions/runs/1")
BUCKET = "faults"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with embedded_aws(tmp_path_factory.mktemp("aws")) as patch:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        boto3.client("ecs").create_cluster(clusterName=CLUSTER)
        yield Line(patch)


class World:
    """A registry and a service in which the first versions went live, one after the other."""

    numbers = iter(range(10_000))

    def __init__(self, line: Line, folder: Path, answers: Any, live: int = 1) -> None:
        self.line, self.answers = line, answers
        self.folder = folder / str(next(self.numbers))
        self.url = f"s3://{BUCKET}/{self.folder.name}"
        self.ecs = answers.ecs  # of its own: no fault befalls it
        line.reset()
        registry = self.registry
        answers.bad, answers.offset = None, 0.0
        container = {"name": "model", "image": "registry.example/serve:1", "memory": 512}
        for number in range(1, live + 2):
            version = self.publish(registry, number)
            if number <= live:
                environment = {"TRILHO_MODEL_URI": self.url, MODEL_DIGEST: version.digest}
                pairs = [{"name": k, "value": v} for k, v in environment.items()]
                arn = self.register([container | {"environment": pairs}])
                champion = registry.alias(CHAMPION)
                registry.move_alias(CHAMPION, number, expected=champion, source=BY)
        names = {"cluster": CLUSTER, "taskDefinition": arn, "desiredCount": 1}
        services = self.ecs.list_services(cluster=CLUSTER)["serviceArns"]
        if services:
            self.ecs.update_service(**names, service=SERVICE)
        else:
            self.ecs.create_service(**names, serviceName=SERVICE)
        self.first: list[str] = []
        self.first = self.definitions()
        line.reset()

    def register(self, containers: Any) -> str:
        made = self.ecs.register_task_definition(family="credit", containerDefinitions=containers)
        return str(made["taskDefinition"]["taskDefinitionArn"])

    def publish(self, registry: Registry, number: int) -> Version:
        folder = self.folder / f"bundle {number}"
        folder.mkdir(parents=True)
        golden = Golden(tolerance=1e-9, rows=[{"x": 1}], expected=[number / 100])
        (folder / "golden.json").write_bytes(bundle.canonical(golden))
        (folder / "model.joblib").write_bytes(b"model %d" % number)
        digest = bundle.seal(folder, manifest(serving="sklearn", metrics={}))
        self.answers.golden[digest] = bundle.canonical(golden)
        return registry.publish(registry.put_bundle(folder), verdict="PROMOTE", source=BY)

    @property
    def registry(self) -> Registry:
        """The registry as a new process opens it."""
        return open_registry(self.url)

    def ship(self, version: int = 2, **more: Any) -> Deployment:
        return deploy(
            self.registry,
            version,
            self.settings(**more),
            registry_url=self.url,
            source=BY,
            poll=0.01,
        )

    def fails(self) -> None:
        with pytest.raises(DeploymentError, match=r"serves again\. Version 2 is quarantined"):
            self.ship()

    def back(self, **more: Any) -> Deployment:
        return rollback(
            self.registry,
            self.settings(),
            registry_url=self.url,
            reason="complaints",
            source=BY,
            poll=0.01,
            **more,
        )

    def settings(self, **more: Any) -> Deploy:
        # what is away is given up soon; how slow this machine is decides nothing
        bounds = {
            "timeout_minutes": 0.005,
            "smoke_timeout_seconds": 0.5,
            "smoke_max_milliseconds": 20_000,
        }
        return Deploy(
            **{"cluster": CLUSTER, "service": SERVICE, "url": self.answers.url, **bounds, **more}
        )

    def harm(self, number: int, name: str, data: bytes | None = None) -> bytes:
        """Put other bytes into the place of a bundle's file, or none; return those before."""
        registry = self.registry
        entry = registry.read_manifest(registry.version(number).digest).files[name]
        key = f"{self.folder.name}/blobs/sha256/{entry.sha256.removeprefix('sha256:')}"
        s3 = boto3.client("s3")
        before = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() if data is None else b""
        s3.delete_object(Bucket=BUCKET, Key=key)
        if data:
            s3.put_object(Bucket=BUCKET, Key=key, Body=data)
        return bytes(before)

    @property
    def state(self) -> tuple[int | None, int | None]:
        """The version that serves and the one that the alias names."""
        with self.line.calm():
            registry = self.registry
            version, alias = registry.version_of(self.answers.digest()), registry.alias(CHAMPION)
        return version.number if version else None, alias.version if alias else None

    def definitions(self) -> list[str]:
        """The task definitions that were registered since this world began."""
        found = self.ecs.list_task_definitions(familyPrefix="credit", sort="DESC", maxResults=9)
        return [arn for arn in found["taskDefinitionArns"] if arn not in self.first]

    def told(self) -> list[tuple[str, int | None]]:
        """What the history holds of promotions, rollbacks and quarantines."""
        with self.line.calm():
            events = self.registry.history()
        return [(e.kind, e.to_version or e.from_version) for e in events if e.kind != "published"]

    def quarantined(self, number: int) -> bool:
        with self.line.calm():
            registry = self.registry
            return registry.quarantined(registry.version(number).digest) is not None

    def breaks(self, number: int) -> None:
        """Whatever serves this version answers wrong numbers."""
        self.answers.offset, self.answers.bad = 1e-6, self.registry.version(number).digest
        self.line.reset()


class Knowing(Answers):
    """Asks ECS once only what a task definition names, and S3 for nothing."""

    def __init__(self) -> None:
        super().__init__(self)
        self.known: dict[str, str] = {}
        self.golden: dict[str, bytes] = {}

    def bundle_file(self, digest: str, name: str) -> bytes:
        return self.golden[digest]

    def digest(self) -> str:
        found = self.ecs.describe_services(cluster=CLUSTER, services=[SERVICE])["services"][0]
        arn = found["taskDefinition"]
        if arn not in self.known:
            found = self.ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
            pairs = found["containerDefinitions"][0]["environment"]
            self.known[arn] = {e["name"]: e["value"] for e in pairs}[MODEL_DIGEST]
        return self.known[arn]


@pytest.fixture(scope="module")
def answers(line: Line) -> Iterator[Answers]:
    with answering(Knowing()) as running:
        yield running


@pytest.fixture
def world(line: Line, answers: Answers, tmp_path: Path) -> World:
    """Version 1 serves and is the champion; version 2 is published."""
    return World(line, tmp_path, answers)


@pytest.fixture
def three(line: Line, answers: Answers, tmp_path: Path) -> World:
    """Versions 1, 2 and 3 were champions, one after the other; version 4 is published."""
    return World(line, tmp_path, answers, live=3)


def assert_nothing_stayed(world: World, error: TrilhoError, reason: str) -> None:
    """The old version serves, the alias is where it was, and the message begins with the reason."""
    assert error.message.startswith(reason), error.message
    assert world.state == (1, 1)
    assert [kind for kind, _ in world.told()] == ["promoted"] + ["quarantined"] * (
        "quarantined" in error.message
    )


# --- AWS throttles, times out, is away ---


def test_what_is_throttled_for_a_while_is_deployed_all_the_same(world: World) -> None:
    world.line.fault = only("", THROTTLED, times=2)
    assert world.ship().promoted
    assert world.state == (2, 2)
    assert len(world.line.calls) > 60  # each of them three times


@pytest.mark.parametrize("fault", [THROTTLED, TIMES_OUT])
@pytest.mark.parametrize("pattern", ["s3", "ecs", "ecs.RegisterTask", "ecs.UpdateService"])
def test_aws_that_is_away_changes_nothing(world: World, pattern: str, fault: str) -> None:
    world.line.fault = only(pattern, fault)
    with pytest.raises(UnavailableError) as caught:
        world.ship()
    assert caught.value.exit_code == 7
    assert_nothing_stayed(world, caught.value, "Cannot ")
    world.line.reset()
    world.ship()
    assert world.state == (2, 2)


@pytest.mark.parametrize("fault", [THROTTLED, TIMES_OUT])
def test_an_alias_that_cannot_be_moved_brings_the_old_version_back(
    world: World, fault: str
) -> None:
    world.line.fault = only("s3.PutObject .*/aliases/", fault)
    with pytest.raises(UnavailableError, match="serves again") as caught:
        world.ship()
    assert_nothing_stayed(world, caught.value, "Cannot write s3://faults/")
    world.line.reset()
    world.ship()
    assert world.state == (2, 2)
    assert not world.quarantined(2)


def test_s3_that_goes_away_while_the_new_version_is_tried(world: World) -> None:
    world.line.fault = after("ecs.UpdateService", THROTTLED, "s3")
    with pytest.raises(UnavailableError, match=r"serves again\.") as caught:
        world.ship()
    assert_nothing_stayed(world, caught.value, "Cannot ")
    assert "Whether the champion alias was moved is not known" in caught.value.message


def test_a_history_that_cannot_be_written_parts_service_and_alias_by_nothing(world: World) -> None:
    world.line.fault = after("s3.PutObject .*/aliases/", THROTTLED, "s3.PutObject .*/history/")
    with pytest.raises(UnavailableError) as caught:
        world.ship()
    assert "Version 2 serves and is the champion all the same: run this again" in str(caught.value)
    assert world.state == (2, 2)
    assert world.told() == [("promoted", 1)]
    world.line.reset()
    assert not world.ship().changed
    assert world.told() == [("promoted", 1), ("promoted", 2)]


def test_ecs_that_goes_away_after_the_update_says_what_may_serve(world: World) -> None:
    world.line.fault = after("ecs.UpdateService", THROTTLED)
    with pytest.raises(UnavailableError, match=r"may run credit:.* or credit:") as caught:
        world.ship()
    assert "GOING BACK" in caught.value.message
    assert "Run this again" in caught.value.message
    assert world.state[1] == 1
    world.line.reset()
    world.ship()
    assert world.state == (2, 2)


# --- credentials expire in the middle ---


def test_credentials_that_expire_on_the_way_are_healed_by_a_rerun(
    line: Line, answers: Answers, world: World, tmp_path: Path
) -> None:
    """At the first call, at each one that changes something, and after the last of them."""
    world.ship()
    calls, changing = list(line.calls), line.changing()
    for number in [0, *changing, changing[-1] + 1]:
        it = World(line, tmp_path, answers)
        line.fault = from_call(number, EXPIRED)
        with pytest.raises(TrilhoError, match=r"^Cannot .*: the AWS credentials have expired") as e:
            it.ship()
        serves, champion = it.state
        message, updated = e.value.message, "ecs.UpdateService" in calls[: number + 1]
        if champion == 2:  # what serves and what is champion never part
            assert serves == 2, number
            told = ("Whether the champion alias was moved is not known", "is the champion all the")
            assert any(words in message for words in told), message
        elif updated:
            assert isinstance(e.value, DeploymentError), number
            assert "The service may run" in message
            assert "Run this again" in message
        else:
            assert serves == 1
            assert e.value.exit_code == 2
        assert not it.quarantined(2)
        line.reset()
        it.ship()
        assert it.state == (2, 2), number
        assert it.told() == [("promoted", 1), ("promoted", 2)], number


# --- the bundle is not whole ---


@pytest.mark.parametrize("name", ["golden.json", "model.joblib"])
@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_bundle_that_is_not_whole_is_never_deployed(world: World, name: str, harm: str) -> None:
    data = world.harm(2, name)
    if harm == "changed":
        world.harm(2, name, b"?" * len(data))
    with pytest.raises(IntegrityError, match=harm) as caught:
        world.ship()
    assert_nothing_stayed(world, caught.value, f"Bundle file {name} ")
    assert "ecs.RegisterTaskDefinition" not in world.line.calls
    world.harm(2, name, data)  # it was not the version's fault: mended, it serves
    world.ship()
    assert world.state == (2, 2)


# --- the job is killed, wherever it is, and run again ---


# Killed before the first call, and after each one that changes something. In between are calls that
# read: what they leave behind is what the call before left, to AWS and to the rerun.


def test_a_deployment_that_is_killed_is_finished_by_a_rerun(
    line: Line, answers: Answers, world: World, tmp_path: Path
) -> None:
    world.ship()
    changing = line.changing()
    assert len(changing) >= 4  # register, update, alias and its line of history
    for number in [-1, *changing]:
        it = World(line, tmp_path, answers)
        line.kill(number, it.ship)
        serves, champion = it.state
        assert champion == 1 or serves == 2, f"{number}: alias and service part"
        it.ship()
        assert it.state == (2, 2), number
        assert it.told() == [("promoted", 1), ("promoted", 2)], number
        assert len(it.definitions()) <= 2, number  # the one that was lost, and its successor
        assert not it.quarantined(2)


def test_a_deployment_that_fails_and_is_killed_never_stays(
    line: Line, answers: Answers, world: World, tmp_path: Path
) -> None:
    world.breaks(2)
    world.fails()
    changing = line.changing()
    assert len(changing) >= 5  # register, update, back, quarantine, history
    for number in changing:
        it = World(line, tmp_path, answers)
        it.breaks(2)
        line.kill(number, it.fails)
        assert it.state[1] == 1
        with pytest.raises((DeploymentError, QuarantinedError), match="answers wrong numbers"):
            it.ship()
        assert it.state == (1, 1), number
        assert it.told() == [("promoted", 1), ("quarantined", 2)], number


def test_a_rollback_that_is_killed_is_finished_by_a_rerun(
    line: Line, answers: Answers, tmp_path: Path
) -> None:
    World(line, tmp_path, answers, live=2).back()
    changing = line.changing()
    assert len(changing) >= 5  # update, quarantine and alias, each with its line of history
    for number in changing:
        it = World(line, tmp_path, answers, live=2)
        line.kill(number, it.back)
        serves, champion = it.state
        assert champion == 2 or serves == 1, f"{number}: alias and service part"
        it.back()
        assert it.state == (1, 1), number
        told = [("promoted", 1), ("promoted", 2), ("quarantined", 2), ("rolled-back", 1)]
        assert it.told() == told, number
        assert it.definitions() == [], number  # it takes the revision that served before


# --- somebody else deploys, too ---


def test_a_deployment_that_is_overtaken_while_it_asks_is_not_blamed(
    three: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = rollout.smoke

    def overtaken(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(rollout, "smoke", ask)
        three.publish(three.registry, 5)
        three.ship(5)
        return ask(*arguments, **more)

    monkeypatch.setattr(rollout, "smoke", overtaken)
    with pytest.raises(DeploymentError, match="which is not ours"):
        three.ship(4)
    assert three.state == (5, 5)
    assert not three.quarantined(4)


def test_a_deployment_that_finds_the_alias_moved_goes_to_what_is_champion_now(
    three: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one ended between our look at the alias and our move of it."""
    ask = rollout.smoke
    three.publish(three.registry, 5)

    def overtaken(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(rollout, "smoke", ask)
        done = ask(*arguments, **more)
        ours = three.ecs.describe_services(cluster=CLUSTER, services=[SERVICE])["services"][0]
        three.ship(5)
        three.ecs.update_service(
            cluster=CLUSTER, service=SERVICE, taskDefinition=ours["taskDefinition"]
        )
        return done

    monkeypatch.setattr(rollout, "smoke", overtaken)
    with pytest.raises(DeploymentError, match=r"^The champion alias was moved by somebody else"):
        three.ship(4)
    assert three.state == (5, 5)
    assert not three.quarantined(4)


def test_two_deployments_at_once_leave_service_and_alias_at_the_same_version(three: World) -> None:
    three.publish(three.registry, 5)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            three.ship(number, timeout_minutes=0.05)
        except TrilhoError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    serves, champion = three.state
    assert serves == champion
    assert champion in (4, 5)
    assert all(isinstance(error, DeploymentError) for error in errors)
    assert not three.quarantined(4)
    assert not three.quarantined(5)


# --- the service answers too slowly ---


@pytest.mark.parametrize("path", ["/model", "/invocations"])
@pytest.mark.parametrize("begun", [b"", b"content-length: 99999\r\n\r\n"], ids=["head", "body"])
def test_an_answer_that_trickles_is_no_answer(
    world: World, path: str, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece comes in time, and the whole never does."""
    monkeypatch.setattr(smoke_module, "REQUEST_SECONDS", 0.2)
    done = threading.Event()

    class Trickle(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            if self.path == path:
                self.wfile.write(begun)
                with contextlib.suppress(OSError):
                    while not done.wait(0.02):
                        self.wfile.write(b"x: 1\r\n")
            else:
                body = json.dumps({"digest": world.answers.digest()}).encode()
                self.wfile.write(b"content-length: %d\r\n\r\n" % len(body) + body)

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with pytest.raises(DeploymentError, match=r"not complete after 0\.2 seconds") as caught:
            world.ship(url=f"http://127.0.0.1:{server.server_port}")
    finally:
        done.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert world.state == (1, 1)
    assert "serves again" in caught.value.message


# --- the rollback's own target is broken ---


def test_a_rollback_passes_over_a_version_whose_bundle_is_not_whole(three: World) -> None:
    three.harm(2, "model.joblib")
    done = three.back()
    assert three.state == (1, 1)
    (reason,) = done.passed_over
    assert reason.startswith(
        "Version 2 cannot be gone back to: Bundle file model.joblib is missing"
    )
    assert three.quarantined(3)
    assert not three.quarantined(2)


def test_a_rollback_passes_over_a_version_that_fails_its_smoke_test(three: World) -> None:
    three.breaks(2)
    done = three.back()
    assert three.state == (1, 1)
    (reason,) = done.passed_over
    assert "Version 2 cannot be gone back to: http://127.0.0.1:" in reason
    assert "answers wrong numbers" in reason
    # it served well before: what is around it may be at fault, and a quarantine is for good
    assert not three.quarantined(2)
    assert [kind for kind, _ in three.told()[-2:]] == ["quarantined", "rolled-back"]


def test_a_rollback_that_finds_nothing_whole_leaves_the_present_version(three: World) -> None:
    three.harm(1, "golden.json")
    three.breaks(2)
    with pytest.raises(DeploymentError) as caught:
        three.back()
    message = caught.value.message
    assert message.startswith("Version 2 cannot be gone back to: http")
    assert "Version 1 cannot be gone back to: Bundle file golden.json is missing" in message
    assert message.endswith("Version 3 is the champion still.")
    assert three.state == (3, 3)
    assert not any(three.quarantined(number) for number in (1, 2, 3))


def test_a_rollback_to_a_version_that_is_named_goes_nowhere_else(three: World) -> None:
    three.breaks(2)
    with pytest.raises(DeploymentError, match=r"answers wrong numbers.*serves again\.$"):
        three.back(to=2)
    assert three.state == (3, 3)
    three.harm(2, "model.joblib")
    with pytest.raises(IntegrityError, match=r"model\.joblib is missing"):
        three.back(to=2)
    assert three.state == (3, 3)


def test_a_rollback_is_not_led_astray_by_what_is_no_fault_of_its_target(three: World) -> None:
    """Where nobody answers, or AWS is away, another version would fare no better."""
    three.answers.url, url = f"http://127.0.0.1:{ministack.free_port()}", three.answers.url
    try:
        with pytest.raises(DeploymentError, match=r"Connection refused.*serves again\.$"):
            three.back()
    finally:
        three.answers.url = url
    three.line.fault = only("ecs.UpdateService", THROTTLED)
    with pytest.raises(UnavailableError, match=r"^Cannot UpdateService"):
        three.back()
    assert three.state == (3, 3)
    assert not any(three.quarantined(number) for number in (1, 2, 3))
