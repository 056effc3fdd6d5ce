"""The demo: its local ECS agent with the real service, and the whole story as a user sees it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from served import ROW, expected, make_bundle
from waiting import eventually

from trilho.config import Deploy
from trilho.demo import background, cloud, engine, ministack, story
from trilho.demo.keeper import CLUSTER, SERVICE, State
from trilho.deploy.rollout import CHAMPION, Deployment, deploy, read_golden
from trilho.deploy.smoke import smoke
from trilho.errors import DeploymentError, UnavailableError
from trilho.registry import Registry, Source, open_registry

ROOT = Path(__file__).parents[2]
BY = Source(actor="tester")


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """An embedded AWS with the demo's bucket and service, whose tasks are local processes."""
    folder = tmp_path / "with a space"
    state = background.start(folder)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in ministack.client_environment(state.aws_url).items():
        monkeypatch.setenv(name, value)
    cloud.create({}, containers=False)
    yield state
    background.stop(folder)


@pytest.fixture
def registry(keeper: State) -> Registry:
    return open_registry(cloud.REGISTRY)


def publish(registry: Registry, folder: Path, **options: Any) -> int:
    make_bundle(folder, **options)
    digest = registry.put_bundle(folder)
    return registry.publish(digest, verdict="PROMOTE", source=BY).number


def ship(registry: Registry, version: int, url: str, wait: float = 20) -> Deployment:
    settings = Deploy(cluster=CLUSTER, service=SERVICE, url=url, smoke_timeout_seconds=wait)
    return deploy(registry, version, settings, registry_url=cloud.REGISTRY, source=BY, poll=0.05)


def ask(url: str) -> dict[str, Any]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, 10)
    try:
        connection.request(
            "POST", "/invocations", json.dumps([ROW]), {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        assert answer.status == 200
        return dict(json.loads(answer.read()))
    finally:
        connection.close()


def test_a_task_becomes_a_process_and_no_request_is_lost_between_two(
    keeper: State, registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1")
    publish(registry, tmp_path / "2", serving="compiled", strict_city=True)
    ship(registry, 1, keeper.service_url)
    answer = ask(keeper.service_url)
    assert answer["predictions"][0] == pytest.approx(expected(ROW))
    assert answer["model"]["version"] == "1"

    versions: list[str] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                versions.append(ask(keeper.service_url)["model"]["version"])
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        ship(registry, 2, keeper.service_url)
        eventually(lambda: versions[-1:] == ["2"])
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert set(versions) == {"1", "2"}
    assert versions == sorted(versions)  # no way back to the old one


def test_a_bundle_that_breaks_its_own_promise_never_serves(
    keeper: State, registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1")
    ship(registry, 1, keeper.service_url)
    bad = publish(registry, tmp_path / "2", golden=[0.1, 0.2, 0.3, 0.4])
    with pytest.raises(
        DeploymentError, match=r"does not serve sha256:.*it serves sha256:"
    ) as caught:
        ship(registry, bad, keeper.service_url, wait=3)
    assert "serves again. Version 2 is quarantined." in caught.value.message
    assert ask(keeper.service_url)["model"]["version"] == "1"
    alias = registry.alias(CHAMPION)
    assert alias is not None
    assert alias.version == 1
    log = (tmp_path / "with a space" / "service.log").read_text()
    assert "this environment is not the one the model was proven in" in log


def test_a_busy_port_is_no_hindrance_and_stopping_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has taken it: as good
        state = background.start(tmp_path)
    assert urlsplit(state.service_url).port != 8080
    assert background.runs(tmp_path)
    assert background.stop(tmp_path)
    assert not background.runs(tmp_path)
    for url in (state.service_url, state.aws_url):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(str(urlsplit(url).port))), 2)
    assert not background.stop(tmp_path)


def test_what_a_killed_keeper_left_is_stopped_too(
    keeper: State, registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1")
    ship(registry, 1, keeper.service_url)
    os.kill(keeper.keeper, signal.SIGKILL)
    folder = tmp_path / "with a space"
    assert background.runs(folder)  # its task lives on
    assert background.stop(folder)
    assert not background.runs(folder)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(str(urlsplit(keeper.aws_url).port))), 2)


def test_a_keeper_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "aws").write_text("in the way")
    with pytest.raises(UnavailableError, match="did not start"):
        background.start(tmp_path)
    assert not background.runs(tmp_path)


def test_no_container_engine_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(engine.NoEngineError, match="no container engine answers at unix://"):
        engine.find(ROOT, cloud.IMAGE, print)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(engine.NoEngineError, match="cannot be reached directly on Darwin"):
        engine.find(ROOT, cloud.IMAGE, print)


@pytest.mark.container
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # docker's sockets
def test_a_task_becomes_a_container_where_there_is_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs DOCKER_HOST or a docker or podman socket; see tests/container for podman."""
    try:
        found = engine.find(ROOT, "trilho-serving:demo", lambda _: None)
    except engine.NoEngineError as reason:
        pytest.skip(str(reason))
    state = background.start(tmp_path / "demo", *found)
    try:
        for name, value in ministack.client_environment(state.aws_url).items():
            monkeypatch.setenv(name, value)
        cloud.create(story.inside(state), containers=True)
        registry = open_registry(cloud.REGISTRY)
        publish(registry, tmp_path / "1")
        publish(registry, tmp_path / "2", strict_city=True)
        publish(registry, tmp_path / "3", golden=[0.1, 0.2, 0.3, 0.4])
        cloud.scale(1)
        ship(registry, 1, state.service_url)
        ship(registry, 2, state.service_url)
        # the container ends before it is ready, with the exit code of a damaged bundle
        with pytest.raises(DeploymentError, match="exited with 3") as caught:
            ship(registry, 3, state.service_url, wait=8)
        assert "serves again. Version 3 is quarantined." in caught.value.message
        eventually(lambda: smoke_of(registry, 2, state.service_url))
    finally:
        story.end(tmp_path / "demo")


def smoke_of(registry: Registry, version: int, url: str) -> bool:
    digest = registry.version(version).digest
    try:
        smoke(url, read_golden(registry, digest), digest, timeout=1)
    except DeploymentError:
        return False
    return True


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the demo needs of the project, with no container engine in sight."""
    if not (ROOT / "pipeline.yaml").exists():
        pytest.skip("no example yet")
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("pipeline.yaml", "data", "data_schemas", "src", "requirements.txt"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)
    return folder


def trilho_in(checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{checkout}/none",
        "PYTHONPATH": str(checkout / "src"),
        "AWS_PROFILE": "a-real-account",
        "COLUMNS": "200",
    }
    return subprocess.Popen(
        [sys.executable, "-c", "from trilho.cli import main; main()", *arguments],
        cwd=checkout,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_ctrl_c_leaves_nothing_running(checkout: Path) -> None:
    folder = checkout / ".trilho/demo"
    demo = trilho_in(checkout, "demo")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("$ trilho validate"):
            break
    state = background.read(folder)
    assert state is not None
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: the demo and the verb that it runs
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert not background.runs(folder)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(str(urlsplit(state.aws_url).port))), 2)


def test_the_whole_story(checkout: Path) -> None:
    def trilho(*arguments: str) -> subprocess.CompletedProcess[str]:
        with trilho_in(checkout, *arguments) as process:
            output, _ = process.communicate()
            return subprocess.CompletedProcess(process.args, process.returncode, output)

    try:
        done = trilho("demo")
        assert done.returncode == 0, done.stdout
        assert "runs as a local process, with exactly its environment" in done.stdout
        assert "exit code 4, and version 1 still serves" in done.stdout
        assert "Version 2 is the champion and serves" in done.stdout

        state = background.read(checkout / ".trilho/demo")
        assert state is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_PROFILE", raising=False)
            for name, value in ministack.client_environment(state.aws_url).items():
                patch.setenv(name, value)
            registry = open_registry(cloud.REGISTRY)
            alias = registry.alias(CHAMPION)
            assert alias is not None
            assert alias.version == 2
            assert [v.number for v in registry.versions()] == [1, 2]
            assert [e.kind for e in registry.history()] == [
                "published",
                "promoted",
                "published",
                "promoted",
            ]
        # the line to try works as it stands
        line = next(x for x in done.stdout.splitlines() if x.startswith("curl "))
        answer = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
        answered = json.loads(answer.stdout)
        assert answered["model"]["digest"] == alias.digest
        assert 0 < answered["predictions"][0] < 1
        for report in re.findall(r"\S+/report\.(?:md|html)", done.stdout):
            assert (checkout / report).stat().st_size > 1000
    finally:
        stopped = trilho("demo", "--stop")
    assert stopped.returncode == 0
    assert "are stopped" in stopped.stdout
    assert "Nothing of the demo is running" in trilho("demo", "--stop").stdout
