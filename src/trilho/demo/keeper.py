"""What stays after the demo: the embedded AWS, and the task that its ECS service asks for.

`python -m trilho.demo.keeper FOLDER` runs until SIGTERM. Where no container engine is at hand, the
embedded ECS only pretends to run tasks, and the keeper is its agent: it follows the service's task
definition, runs its command as a local process with its environment, and forwards one unchanging
port to the process that is ready. A new one must be ready before the old one is told to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trilho.demo import ministack
from trilho.deploy.ecs import Service, connect
from trilho.deploy.revision import Revision
from trilho.errors import TrilhoError, UnavailableError

CLUSTER = "trilho-demo"
SERVICE = "credit-default"
PREFERRED_PORT = 8080
LOOK_SECONDS = 0.3
READY_SECONDS = 30.0
IP_FREEBIND = 15  # Linux; Python does not name it


class State(Struct, frozen=True, kw_only=True):
    """What others must know of a running keeper; stands in `state.json`."""

    keeper: int  # process and process group
    aws: int
    aws_url: str
    service_url: str
    engine: str | None  # DOCKER_HOST of the container engine
    inside_url: str | None  # the embedded AWS as containers reach it


class Front:
    """Forwards connections to whichever process serves now, byte by byte."""

    def __init__(self, to: tuple[str, int] | None = None) -> None:
        self.to = to

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.to is None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 503 No task is ready\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            back, forth = await asyncio.open_connection(*self.to)
            await asyncio.gather(_pump(reader, forth), _pump(back, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client sees its connection closed, as from any server that went away
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


class Agent:
    """Runs the service's task as a local process."""

    def __init__(self, front: Front, folder: Path, environment: dict[str, str], lock: int) -> None:
        self.front = front
        self.log = folder / "service.log"
        self.environment = environment
        self.lock = lock
        self.ecs = Service(CLUSTER, SERVICE, client=connect())
        self.tried: str | None = None  # deployment whose task was started, well or not
        self.process: asyncio.subprocess.Process | None = None
        self.ending: set[asyncio.Task[None]] = set()
        self.calling: asyncio.Future[Any] | None = None

    async def follow(self) -> None:
        """Follow the service for ever."""
        while True:
            with contextlib.suppress(TrilhoError):  # no service yet, or AWS is busy
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        service = await self._call(self.ecs.describe)
        primary = next(d for d in service["deployments"] if d["status"] == "PRIMARY")
        if primary["id"] == self.tried or not service["desiredCount"]:
            return
        revision = await self._call(self.ecs.revision, primary["taskDefinition"])
        self.tried = primary["id"]
        if started := await self._start(revision):
            process, port = started
            self.front.to = ("127.0.0.1", port)
            old, self.process = self.process, process
            if old is not None:
                task = asyncio.create_task(_end(old))
                self.ending.add(task)
                task.add_done_callback(self.ending.discard)

    async def _start(self, revision: Revision) -> tuple[asyncio.subprocess.Process, int] | None:
        """Start the task; None when it ends, or is not ready in time: then the old one stays."""
        port = ministack.free_port()
        container = next(
            c for c in revision.definition["containerDefinitions"] if c["name"] == "model"
        )
        environment = (
            {
                name: os.environ[name]
                for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH")
                if name in os.environ
            }
            | self.environment  # what ECS gives a task: its role's credentials, and where AWS is
            | revision.environment
            | {"TRILHO_HOST": "127.0.0.1", "TRILHO_PORT": str(port)}
        )
        command = [sys.executable, "-m", "trilho.serving", *container.get("command", [])]
        with open(self.log, "ab") as log:
            log.write(f"-- {revision.name}: {' '.join(command)}\n".encode())
            log.flush()
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self.lock,),  # so that the lock tells of orphans, too
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while process.returncode is None:
                    if await _ready(port):
                        return process, port
                    await asyncio.sleep(0.05)
        await _end(process)
        return None

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call AWS in a thread, which nothing can interrupt: `close` waits for it."""
        self.calling = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        return await asyncio.shield(self.calling)

    async def close(self) -> None:
        """End the task and those before it."""
        if self.calling is not None:
            await asyncio.wait([self.calling])
        if self.process is not None:
            await _end(self.process)
        await asyncio.gather(*self.ending)


async def _ready(port: int) -> bool:
    """Whether /ping answers 200."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Stop a process as ECS does: SIGTERM, and SIGKILL after 30 seconds."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(30):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def keep(folder: Path, lock: int, engine: str | None, gateway: str | None) -> None:
    """Start the embedded AWS and stay until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # without an engine, MiniStack must not find one by itself: the agent runs the task
    aws = await asyncio.to_thread(
        ministack.start,
        folder / "aws",
        environment={"DOCKER_HOST": engine or f"unix://{folder}/no-engine"},
    )
    agent: Agent | None = None
    following: asyncio.Task[None] | None = None
    try:
        port = int(aws.url.rsplit(":", 1)[-1])
        if engine:
            # containers reach this machine by the gateway of their network
            listener = _listen(gateway or "127.0.0.1", port)
            await asyncio.start_server(Front(("127.0.0.1", port)), sock=listener)
            url = f"{aws.url}/_alb/{SERVICE}"
        else:
            os.environ.update(aws.environment())
            front = Front()
            listener = _listen("127.0.0.1", PREFERRED_PORT, 0)
            await asyncio.start_server(front, sock=listener)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            agent = Agent(front, folder, aws.environment(), lock)
            following = asyncio.create_task(agent.follow())
        state = State(
            keeper=os.getpid(),
            aws=aws.process.pid,
            aws_url=aws.url,
            service_url=url,
            engine=engine,
            inside_url=f"http://{gateway}:{port}" if engine else None,
        )
        write_state(folder, state)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait(
            {stopped, *([following] if following else [])}, return_when=asyncio.FIRST_COMPLETED
        )
        if following is not None and following.done():
            following.result()  # it never ends by itself: tell what went wrong
    finally:
        if following is not None:
            following.cancel()
        if agent is not None:
            await agent.close()
        await asyncio.to_thread(aws.stop)


def write_state(folder: Path, state: State) -> None:
    partial = folder / "state.json.partial"
    partial.write_bytes(msgspec.json.encode(state))
    os.replace(partial, folder / "state.json")


def _listen(host: str, *ports: int) -> socket.socket:
    """Take the first of the ports that is free; 0 is any."""
    for port in ports:
        # asyncio sends at once only on sockets that name their protocol
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host != "127.0.0.1":  # podman makes the address with its first container
            listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        try:
            listener.bind((host, port))
        except OSError:
            listener.close()
            continue
        return listener
    raise UnavailableError(f"Port {' and '.join(map(str, ports))} of {host} is not free.")


def main(arguments: list[str]) -> int:
    folder, engine, gateway = (*arguments, None, None)[:3]
    lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(
        lock, fcntl.LOCK_EX | fcntl.LOCK_NB
    )  # held by us and our tasks, until the last ends
    try:
        asyncio.run(keep(Path(str(folder)), lock, engine, gateway))
    except TrilhoError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
