"""The serving image, built and run as production runs it; needs a container engine.

    CONTAINERS_CONF=scripts/containers.conf pytest tests/container

TRILHO_TEST_ENGINE chooses the engine, TRILHO_TEST_BUILD gives more arguments for the build (such as
`--network host` or `--build-arg BASE=...`). On a machine that cannot pull the base image,
scripts/local-base-image.sh makes a stand-in. TRILHO_TEST_LARGER=1 tests the larger image as well.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import pytest
import served
from served import ROWS, Service, expected
from sklearn.dummy import DummyClassifier

from trilho import bundle

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.11-slim"

pytestmark = pytest.mark.container


def run(*command: str | Path, check: bool = True, seconds: float = 60) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=os.environ, check=False
    )
    assert done.returncode == 0 or not check, f"{shlex.join(map(str, command))}: {done.stderr}"
    return done.stdout.strip()


def quiet(*command: str, seconds: float = 60) -> str:
    """Return what a failing command said, and nothing of one that succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode == 0:
        return ""
    return done.stderr.strip() or f"exit {done.returncode}"


@pytest.fixture(scope="module")
def engine() -> str:
    wanted = os.environ.get("TRILHO_TEST_ENGINE")
    for name in [wanted] if wanted else ["docker", "podman"]:
        if shutil.which(name) is None:
            continue
        info = subprocess.run([name, "info"], capture_output=True, timeout=60, check=False)
        if info.returncode == 0:
            return name
    pytest.skip("no container engine: neither docker nor podman works here")


@pytest.fixture(scope="module")
def image(engine: str) -> str:
    """The image of this work tree, built as the Dockerfile's first lines say."""
    if quiet(engine, "image", "inspect", BASE) and quiet(engine, "pull", "-q", BASE, seconds=300):
        pytest.skip(f"{BASE} cannot be pulled; scripts/local-base-image.sh makes a stand-in")
    if why := quiet(engine, "run", "--rm", BASE, "python", "-c", ""):
        pytest.skip(f"{engine} cannot run containers here (CONTAINERS_CONF?): {why[-300:]}")
    tag = "trilho-serve:test"
    more = shlex.split(os.environ.get("TRILHO_TEST_BUILD", ""))
    if engine == "podman":
        more += ["--format", "docker"]  # the OCI format knows no health check
    run(engine, "build", "-q", "-t", tag, *more, str(ROOT), seconds=900)
    return tag


@pytest.fixture(scope="module")
def larger(engine: str, image: str) -> str:
    """The image with scikit-learn, whose build takes minutes."""
    if not os.environ.get("TRILHO_TEST_LARGER"):
        pytest.skip("TRILHO_TEST_LARGER=1 builds the larger image, too, which takes minutes")
    more = [*shlex.split(os.environ.get("TRILHO_TEST_BUILD", "")), "--target", "sklearn"]
    more += ["--format", "docker"] if engine == "podman" else []
    run(engine, "build", "-q", "-t", f"{image}-sklearn", *more, str(ROOT), seconds=1800)
    return f"{image}-sklearn"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "bundle"
    served.make_bundle(path)
    return readable(path)


def readable(path: Path) -> Path:
    path.parent.chmod(0o755)
    for inner in [path, *path.rglob("*")]:  # the container's user is nobody here
        inner.chmod(0o755 if inner.is_dir() else 0o644)
    return path


HARDENED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp", "--memory", "256m"),
)


@contextmanager
def container(engine: str, image: str, *options: str) -> Iterator[str]:
    name = f"trilho-test-{uuid.uuid4().hex[:8]}"
    run(engine, "run", "-d", "--name", name, *HARDENED, *options, image)
    try:
        yield name
    finally:
        run(engine, "rm", "-f", name, check=False)


def service(engine: str, name: str) -> Service:
    """The service in a container, once its log says that it is ready."""
    deadline = time.monotonic() + 60
    while True:
        logs = subprocess.run([engine, "logs", name], capture_output=True, text=True, timeout=60)
        lines = [json.loads(line) for line in (logs.stdout + logs.stderr).splitlines()]
        ready = [line for line in lines if line["event"] == "ready"]
        if ready:
            break
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)
    address = run(engine, "port", name, "8080/tcp").splitlines()[0]
    return Service(None, int(address.rpartition(":")[2]), ready[0])  # type: ignore[arg-type]


def test_serves_hardened_and_stops_in_time(engine: str, image: str, folder: Path) -> None:
    options = ["-p", "127.0.0.1::8080", "-v", f"{folder}:/opt/ml/model:ro"]
    with container(engine, image, *options, "-e", "TRILHO_DRAIN_SECONDS=1") as name:
        it = service(engine, name)
        assert it.ready["digest"] == bundle.read_manifest(folder)[1]
        status, answer = it.predict(ROWS)
        assert status == 200
        assert answer["predictions"] == pytest.approx([expected(r) for r in ROWS], abs=1e-12)
        run(engine, "exec", name, "python", "-m", "trilho.serving.health")

        begun = time.monotonic()
        run(engine, "stop", "-t", "30", name)
        assert time.monotonic() - begun < 25  # it ended by itself, not by the kill after 30 s
        state = json.loads(run(engine, "inspect", name))[0]["State"]
        assert state["ExitCode"] == 0


def test_does_not_start_on_another_model(engine: str, image: str, folder: Path) -> None:
    wrong = "sha256:" + "a" * 64
    options = ["-v", f"{folder}:/opt/ml/model:ro", "-e", f"TRILHO_MODEL_DIGEST={wrong}"]
    with container(engine, image, *options) as name:
        assert run(engine, "wait", name) == "3"


LOOK = """
import importlib.util, os, shutil, sys
assert os.getuid() != 0 and os.getgid() != 0, os.getuid()
for tool in ("pip", "pip3", "gcc", "cc", "uv"):
    assert shutil.which(tool) is None, tool
for name in ("pip", "wheel", "ensurepip", *sys.argv[1:]):
    assert importlib.util.find_spec(name) is None, name
for place in ("/app", "/usr/local", "/etc", os.path.expanduser("~")):
    assert not os.access(place, os.W_OK), place
"""


def test_serves_what_only_scikit_learn_can_from_the_larger_image(
    engine: str, larger: str, tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    served.make_bundle(path, serving="sklearn", golden=[0.5] * len(ROWS))
    model = DummyClassifier(strategy="prior").fit([[0], [1]], ["no", "yes"])
    joblib.dump(model, path / "model.joblib")
    (path / "manifest.json").unlink()
    digest = bundle.seal(path, served.manifest("binary", "sklearn"))
    options = ["-p", "127.0.0.1::8080", "-v", f"{readable(path)}:/opt/ml/model:ro"]
    options += ["--memory", "512m", "-e", "TRILHO_WORKERS=1"]
    with container(engine, larger, *options) as name:
        it = service(engine, name)
        assert it.ready["digest"] == digest
        assert it.predict(ROWS) == (
            200,
            {
                "predictions": [0.5] * len(ROWS),
                "decisions": ["no"] * len(ROWS),
                "model": {"name": "tiny", "version": None, "digest": digest},
            },
        )
        run(engine, "exec", name, "python", "-m", "trilho.serving.health")
    run(engine, "run", "--rm", *HARDENED, "--entrypoint", "python", larger, "-c", LOOK)


def test_the_small_image_says_what_it_takes_to_serve_such_a_model(
    engine: str, image: str, tmp_path: Path
) -> None:
    served.make_bundle(tmp_path / "bundle", serving="sklearn")
    options = ["-v", f"{readable(tmp_path / 'bundle')}:/opt/ml/model:ro"]
    with container(engine, image, *options) as name:
        assert run(engine, "wait", name) == "2"
        logs = subprocess.run([engine, "logs", name], capture_output=True, text=True, timeout=60)
        assert "--target sklearn" in logs.stdout + logs.stderr


def test_holds_no_tools_and_no_root(engine: str, image: str) -> None:
    training = ("setuptools", "pandas", "sklearn", "joblib", "pydantic")
    run(engine, "run", "--rm", *HARDENED, "--entrypoint", "python", image, "-c", LOOK, *training)
    config = json.loads(run(engine, "image", "inspect", image))[0]
    settings = config["Config"]
    assert settings["User"]
    assert settings["Entrypoint"] == ["python", "-m", "trilho.serving"]
    assert settings["Cmd"] == ["serve"]
    assert settings["StopSignal"] in ("SIGTERM", "15")
    labels = {name.rpartition(".")[2]: text for name, text in settings["Labels"].items()}
    assert (labels["title"], labels["licenses"]) == ("trilho-serve", "Apache-2.0")
    assert labels["name"] == "python:3.11-slim"  # of the base
    healthcheck = settings.get("Healthcheck") or config["Healthcheck"]  # docker, podman
    assert healthcheck["Test"] == ["CMD", "python", "-m", "trilho.serving.health"]


def test_the_build_sees_neither_data_nor_repository(
    engine: str, image: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "Dockerfile"
    recipe.write_text(f"FROM {BASE}\nCOPY . /context\n")
    run(engine, "build", "-q", "-t", f"{image}-context", "-f", recipe, ROOT)
    try:
        look = ["--rm", "--entrypoint", "find", f"{image}-context", "/context", "-type", "f"]
        files = run(engine, "run", *look).splitlines()
    finally:
        run(engine, "rmi", "-f", f"{image}-context", check=False)
    names = {file.removeprefix("/context/") for file in files}
    assert "src/trilho/serving/app.py" in names
    known = ("src/trilho/", "src/credit_default/", "requirements")
    assert {name for name in names if not name.startswith(known)} == set()
    assert not any("__pycache__" in name for name in names)
