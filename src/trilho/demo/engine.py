"""Find a container engine that can run the demo's task, and build the serving image with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from trilho.deploy.ecs import Progress

SERVER = (
    "import http.server as h; h.HTTPServer(('', 8080), h.SimpleHTTPRequestHandler).serve_forever()"
)


class Engine(NamedTuple):
    """A container engine whose containers and this machine reach each other."""

    host: str  # as in DOCKER_HOST
    gateway: str  # this machine's address in the containers' network


class NoEngineError(Exception):
    """Why containers cannot be used."""


def find(root: Path, image: str, progress: Progress) -> Engine:
    """Return an engine that has built the image from the project's Dockerfile.

    Parameters
    ----------
    root
        The project, with its Dockerfile.
    image
        The tag to give to the image.
    progress
        Called with each step of the build.

    Raises
    ------
    NoEngineError
        With the reason: none answers, the image cannot be built, or its containers cannot be
        reached, as on engines that run in a virtual machine or without root.
    """
    if platform.system() != "Linux":
        raise NoEngineError(f"containers cannot be reached directly on {platform.system()}")
    host, client = _connect()
    try:
        _build(client, root, image, progress)
        progress("trying the network between this machine and a container")
        return Engine(host, _gateway(client, image))
    finally:
        client.close()


def clear(host: str, cluster: str) -> None:
    """Remove the containers of a cluster of the embedded ECS, which is stopped already."""
    with suppress(Exception):  # the engine may be gone, and its containers with it
        client = import_module("docker").DockerClient(base_url=host)
        labels = {"label": f"com.amazonaws.ecs.cluster={cluster}"}
        for container in client.containers.list(all=True, filters=labels):
            container.remove(force=True)
        client.close()


def _connect() -> tuple[str, Any]:
    try:
        docker: Any = import_module("docker")  # untyped
    except ImportError:
        raise NoEngineError("the Python package 'docker' is not installed") from None
    runtime = os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")
    sockets = ["/var/run/docker.sock", "/run/podman/podman.sock", f"{runtime}/podman/podman.sock"]
    named = os.environ.get("DOCKER_HOST")
    for host in [named] if named else [f"unix://{path}" for path in sockets]:
        if host.startswith("unix://") and not Path(host.removeprefix("unix://")).exists():
            continue
        try:
            client = docker.DockerClient(base_url=host, timeout=600)
            client.ping()
        except Exception:  # noqa: S112 - whatever is wrong with it, it is of no use
            continue
        return host, client
    raise NoEngineError(
        f"no container engine answers at {named}"
        if named
        else "no docker or podman socket was found"
    )


def _build(client: Any, root: Path, image: str, progress: Progress) -> None:
    try:
        for line in client.api.build(path=str(root), tag=image, rm=True, decode=True):
            if error := line.get("error"):
                raise NoEngineError(f"the image cannot be built: {' '.join(error.split())}")
            if text := line.get("stream", "").strip():
                progress(text.splitlines()[-1])
    except NoEngineError:
        raise
    except Exception as error:
        raise NoEngineError(f"the image cannot be built: {error}") from None


def _gateway(client: Any, image: str) -> str:
    """Run a container that answers, reach it, and return the way back from its network."""
    with _container(client, image) as container:
        found: dict[str, str] = {}

        def reached() -> bool:
            container.reload()
            networks = container.attrs["NetworkSettings"]["Networks"]
            for network in networks.values():
                found.update(ip=network.get("IPAddress", ""), gateway=network.get("Gateway", ""))
            return bool(found.get("ip")) and _answers(found["ip"])

        try:
            Retrying(
                stop=stop_after_delay(10),
                wait=wait_fixed(0.1),
                retry=retry_if_result(lambda held: not held),
            )(reached)
        except RetryError:
            raise NoEngineError("its containers cannot be reached from this machine") from None
    return found["gateway"]


@contextmanager
def _container(client: Any, image: str) -> Iterator[Any]:
    try:
        container = client.containers.run(
            image,
            entrypoint=["python", "-c", SERVER],
            command=[],
            detach=True,
            healthcheck={"test": ["NONE"]},
        )
    except Exception as error:
        raise NoEngineError(f"it does not run containers: {error}") from None
    try:
        yield container
    finally:
        container.remove(force=True)


def _answers(ip: str) -> bool:
    import http.client

    connection = http.client.HTTPConnection(ip, 8080, timeout=1)
    try:
        connection.request("HEAD", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
