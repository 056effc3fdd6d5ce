"""Deployments between real containers, behind MiniStack's load balancer, and a client without rest.

    DOCKER_HOST=unix://... pytest tests/cloud/test_containers.py

MiniStack's ECS runs the tasks' containers, counts their failures and goes back; its load balancer
forwards the requests. What AWS knows by health checks, and MiniStack does not, comes from here:

* A target takes requests once its health check passes. MiniStack sends requests to a container that
  has only just started, and answers 502 for it. So the tests register the targets, by `/ping`, as a
  load balancer does: healthy ones only, and all of them where none is healthy.
* A deployment is over, and old tasks are stopped, when the new ones are healthy. To MiniStack a
  task is, once its container ran for a second: health_checks.py makes it ask `/ping` instead.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import templates
from served import ROW, make_bundle
from waiting import eventually

from trilho.config import Deploy
from trilho.demo import background, cloud, engine, ministack, story
from trilho.demo.keeper import CLUSTER, SERVICE
from trilho.deploy.revision import MODEL_DIGEST, MODEL_URI, MODEL_VERSION
from trilho.deploy.rollback import rollback
from trilho.deploy.rollout import CHAMPION, deploy
from trilho.errors import DeploymentError
from trilho.registry import Registry, Source, open_registry
from trilho.storage.aws import client

ROOT = Path(__file__).parents[2]
BY = Source(actor="tester")
DRAIN_SECONDS = 2  # MiniStack kills a container five seconds after SIGTERM

pytestmark = [
    pytest.mark.container,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # docker's
]


def get(host: str, port: int, path: str, body: Any = None, timeout: float = 10) -> tuple[int, Any]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            content = {"content-type": "application/json"}
            connection.request("POST", path, json.dumps(body), content)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
    finally:
        connection.close()


class Targets:
    """Registers the service's tasks at the load balancer as their health checks say."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.ecs, self.elb = client("ecs"), client("elbv2")
        self.registered: set[str] = set()
        self.rounds = itertools.count()
        self.round = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.05):
            self.look()
            self.round = next(self.rounds)

    def look(self) -> None:
        arns = self.ecs.list_tasks(cluster=CLUSTER, serviceName=SERVICE)["taskArns"]
        tasks = self.ecs.describe_tasks(cluster=CLUSTER, tasks=arns)["tasks"] if arns else []
        details = [
            detail
            for task in tasks
            if task["lastStatus"] == "RUNNING"
            for attachment in task.get("attachments", [])
            for detail in attachment["details"]
        ]
        addresses = {d["value"] for d in details if d["name"] == "privateIPv4Address"}
        healthy = {address for address in addresses if self.pings(address)}
        if new := healthy - self.registered:
            self.elb.register_targets(TargetGroupArn=self.group, Targets=self.named(new))
        # where none is healthy a load balancer keeps asking all of them
        if healthy and (gone := self.registered - healthy):
            self.elb.deregister_targets(TargetGroupArn=self.group, Targets=self.named(gone))
        self.registered = healthy or self.registered

    def named(self, addresses: set[str]) -> Any:
        return [{"Id": address, "Port": cloud.PORT} for address in sorted(addresses)]

    def pings(self, address: str) -> bool:
        try:
            return get(address, cloud.PORT, "/ping", timeout=2)[0] == 200
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def settle(self) -> None:
        """Wait for a whole round: on AWS a task that is stopped is no target any more."""
        until = self.round + 2
        while self.round < until and not self.stop.is_set():
            time.sleep(0.02)


class World:
    def __init__(self, url: str, targets: Targets, found: engine.Engine) -> None:
        self.url, self.targets, self.engine = url, targets, found

    @property
    def registry(self) -> Registry:
        return open_registry(cloud.REGISTRY)

    def settings(self) -> Deploy:
        return Deploy(
            cluster=CLUSTER,
            service=SERVICE,
            url=self.url,
            timeout_minutes=1,
            smoke_timeout_seconds=15,
            smoke_max_milliseconds=20_000,
        )

    def told(self, line: str) -> None:
        if line.startswith("asking"):
            self.targets.settle()

    def ship(self, version: int) -> None:
        deploy(
            self.registry,
            version,
            self.settings(),
            registry_url=cloud.REGISTRY,
            source=BY,
            progress=self.told,
            poll=0.2,
        )

    def back(self) -> None:
        rollback(
            self.registry,
            self.settings(),
            registry_url=cloud.REGISTRY,
            reason="complaints",
            source=BY,
            progress=self.told,
            poll=0.2,
        )

    @contextmanager
    def client(self) -> Iterator[Counter[Any]]:
        """A client that asks all the time; counts its answers by version, or by what went wrong."""
        seen: Counter[Any] = Counter()
        stop = threading.Event()
        address = urlsplit(self.url)

        def ask() -> None:
            while not stop.wait(0.01):
                try:
                    status, answer = get(
                        str(address.hostname),
                        address.port or 80,
                        f"{address.path}/invocations",
                        [ROW],
                    )
                    seen[
                        answer["model"]["version"] if status == 200 else f"{status}: {answer}"
                    ] += 1
                except Exception as error:
                    seen[repr(error)] += 1

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    @contextmanager
    def docker(self) -> Iterator[Any]:
        connected = import_module("docker").DockerClient(base_url=self.engine.host)
        try:
            yield connected
        finally:
            connected.close()

    def champion(self) -> int:
        alias = self.registry.alias(CHAMPION)
        assert alias is not None
        return alias.version


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two containers serve version 1; of the others, 3 breaks its own promise."""
    try:
        found = engine.find(ROOT, cloud.IMAGE, lambda _: None)
    except engine.NoEngineError as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("containers")
    shutil.copy(Path(__file__).with_name("health_checks.py"), folder / "sitecustomize.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        state = background.start(folder / "demo", *found)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_PROFILE", raising=False)
            for name, value in ministack.client_environment(state.aws_url).items():
                patch.setenv(name, value)
            client("s3").create_bucket(Bucket=cloud.BUCKET)
            registry = open_registry(cloud.REGISTRY)
            make_bundle(folder / "1")
            make_bundle(folder / "2", strict_city=True)
            make_bundle(folder / "3", golden=[0.1, 0.2, 0.3, 0.4])
            for number in (1, 2, 3):
                digest = registry.put_bundle(folder / str(number))
                registry.publish(digest, verdict="PROMOTE", source=BY)
            registry.move_alias(CHAMPION, 1, expected=None, source=BY)
            targets = Targets(create(registry.version(1).digest, story.inside(state)))
            thread = threading.Thread(target=targets.run)
            thread.start()
            try:
                eventually(lambda: len(targets.registered) == 2)
                yield World(f"{state.aws_url}/_alb/{SERVICE}", targets, found)
            finally:
                targets.stop.set()
                thread.join()
                cloud.scale(0)  # or a task that ends with the rest would be replaced
    finally:
        story.end(folder / "demo")


def create(digest: str, inside: dict[str, str]) -> str:
    """Create the service, and a load balancer before it; return the target group."""
    [balancer] = cloud._load_balancer()
    variables = {
        "TRILHO_DRAIN_SECONDS": str(DRAIN_SECONDS),
        MODEL_URI: cloud.REGISTRY,
        MODEL_DIGEST: digest,
        MODEL_VERSION: "1",
        **inside,
    }
    container = {
        "name": "model",
        "image": cloud.IMAGE,
        "command": ["serve"],
        "essential": True,
        "environment": [{"name": name, "value": value} for name, value in variables.items()],
    }
    ecs = client("ecs")
    ecs.create_cluster(clusterName=CLUSTER)
    definition = ecs.register_task_definition(
        family=SERVICE,
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=[container],
    )["taskDefinition"]["taskDefinitionArn"]
    ecs.create_service(
        cluster=CLUSTER,
        serviceName=SERVICE,
        taskDefinition=definition,
        desiredCount=2,
        launchType="FARGATE",
        networkConfiguration={
            "awsvpcConfiguration": {"subnets": ["subnet-demo"], "assignPublicIp": "DISABLED"}
        },
    )
    return str(balancer["targetGroupArn"])


def test_not_one_request_fails_while_versions_come_and_go(world: World) -> None:
    """A good deployment, a bad one, and a rollback."""
    with world.client() as seen:
        world.ship(2)
        asked = seen["2"]
        eventually(lambda: seen["2"] > asked + 20)
    assert set(seen) == {"1", "2"}, seen
    assert world.champion() == 2

    with world.client() as seen:
        with pytest.raises(DeploymentError, match=r"^ECS gave .*circuit breaker") as caught:
            world.ship(3)
        # the code of a bundle that is not what it says: the task never got ready
        assert "container 'model' exited with 3" in caught.value.message
        assert caught.value.message.endswith("serves again. Version 3 is quarantined.")
        asked = seen["2"]
        eventually(lambda: seen["2"] > asked + 20)
    assert set(seen) == {"2"}, seen
    assert world.champion() == 2

    with world.client() as seen:
        world.back()
        asked = seen["1"]
        eventually(lambda: seen["1"] > asked + 20)
    assert set(seen) == {"1", "2"}, seen
    assert world.champion() == 1


LOOK = """
import errno, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert os.getuid() == 10001 and os.getgid() != 0, (os.getuid(), os.getgid())
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    assert int(status[name], 16) == 0, (name, status[name])
for place in ("/", "/app", "/usr/local", "/etc", "/home"):
    try:
        open(os.path.join(place, "written"), "w")
    except OSError as error:
        assert error.errno == errno.EROFS, (place, error)
    else:
        raise AssertionError(f"{place} can be written to")
open("/tmp/written", "w").close()
"""


def test_the_container_holds_no_right_and_writes_nowhere(world: World) -> None:
    """As the task definition of infra/service.yaml runs it."""
    [settings] = templates.load("service")["Resources"]["Task"]["Properties"][
        "ContainerDefinitions"
    ]
    linux = settings["LinuxParameters"]
    assert settings["Privileged"] is False
    with world.docker() as docker:
        docker.containers.run(
            cloud.IMAGE,
            entrypoint=["python", "-c", LOOK],
            command=[],
            remove=True,
            user=settings["User"],
            read_only=settings["ReadonlyRootFilesystem"],
            cap_drop=linux["Capabilities"]["Drop"],
            tmpfs={mount["ContainerPath"]: "" for mount in linux["Tmpfs"]},
        )
