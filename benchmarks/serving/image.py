"""The serving image: how large it is, and how soon a container of it answers."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.measure import ROOT
from benchmarks.serving.models import SMALL, Place
from benchmarks.serving.servers import DIRECT
from trilho.demo.ministack import free_port

BASE = "docker.io/library/python:3.11-slim"
TAGS = {"compiled": "trilho-serve:benchmark", "sklearn": "trilho-serve:benchmark-sklearn"}
HARDENED = ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp", "--memory", "512m")
STARTS = 3
ENVIRONMENT = {"CONTAINERS_CONF": str(ROOT / "scripts/containers.conf")}  # podman's


class NoEngineError(Exception):
    """No image can be built here, and why."""


def describe(place: Place) -> str:
    """Build both images, start containers of the smaller, and return a part of the section."""
    try:
        return _describe(_engine(), place)
    except NoEngineError as error:
        return f"The image was not measured: {error}.\n"


def _describe(engine: str, place: Place) -> str:
    lines = ["| image | MB over its base | start to first answer |", "|---|---:|---:|"]
    base = _size(engine, BASE)
    for target, tag in TAGS.items():
        form = ["--format", "docker"] if engine.endswith("podman") else []
        _run(engine, "build", "-q", *form, "--target", target, "-t", tag, str(ROOT))
        started = "—"
        if target == "compiled":
            for path in (place.folder, place.folder / "hgb"):
                path.chmod(0o755)  # the container's user is nobody here
            seconds = [_start(engine, tag, place) for _ in range(STARTS)]
            started = f"{statistics.median(seconds):.2f} s"
        lines.append(f"| `--target {target}` | {_size(engine, tag) - base:.0f} | {started} |")
    name = Path(engine).name
    return (
        f"Containers of the image (HGB, read-only, without capabilities), from `{name} run` on:"
        "\n\n" + "\n".join(lines) + "\n"
    )


def _engine() -> str:
    """Return an engine that works and has the base image."""
    why = "neither docker nor podman is installed"
    for name in ("docker", "podman"):
        engine = shutil.which(name)
        if engine is None:
            continue
        try:
            _run(engine, "info")
            try:
                _run(engine, "image", "inspect", BASE)
            except NoEngineError:
                _run(engine, "pull", "-q", BASE)
        except NoEngineError as error:
            why = str(error)
        else:
            return engine
    raise NoEngineError(why)


def _size(engine: str, image: str) -> float:
    """Return an image's megabytes."""
    size: int = json.loads(_run(engine, "image", "inspect", image))[0]["Size"]
    return size / 1e6


def _start(engine: str, tag: str, place: Place) -> float:
    """Return the seconds from the start of a container to its first answer."""
    port = free_port()
    options = ["-p", f"127.0.0.1:{port}:8080", "-v", f"{place.bundle('hgb')}:/opt/ml/model:ro"]
    begun = time.perf_counter()
    name = _run(engine, "run", "-d", *HARDENED, *options, tag)
    try:
        body = place.body("split", SMALL).read_bytes()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"content-type": "application/json"}
        )
        while time.perf_counter() - begun < 60:
            try:
                DIRECT.open(request, timeout=10).close()
            except (OSError, urllib.error.URLError):
                time.sleep(0.005)
                continue
            return time.perf_counter() - begun
        raise NoEngineError("a container did not answer within a minute")
    finally:
        _run(engine, "rm", "-f", name)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT | os.environ, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or f"exit {done.returncode}").splitlines()
        raise NoEngineError(f"{Path(command[0]).name} {command[1]}: {lines[-1]}")
    return done.stdout.strip()
