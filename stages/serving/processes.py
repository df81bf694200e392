"""Processes that serve one port together, and the supervisor that starts, watches and replaces them."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from functools import partial

from stages.core.errors import UserError
from stages.serving.child import Child, Lines, in_words, line
from stages.serving.options import Options

BEAT = 1  # seconds between the signs of life of a process
log = logging.getLogger(__name__)


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """A socket at the address for each of `count` processes, which do not listen yet.

    On Linux the kernel shares new connections out among them (SO_REUSEPORT). Elsewhere they are one socket. A
    UserError, if something else is bound to the address.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sharing = count > 1 and sys.platform == "linux"
        with _bound(family, kind, address, share=False) as alone:  # or another service's share would be taken
            address = alone.getsockname()
            if not sharing:
                return [alone.dup()] * count
        return [_bound(family, kind, address, share=True) for _ in range(count)]
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port} ({error.strerror}): name another --host or --port"
        ) from None


def _bound(family: int, kind: int, address: tuple, share: bool) -> socket.socket:
    new = socket.socket(family, kind)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        new.bind(address)
    except OSError:
        new.close()
        raise
    return new


def _serve(options: Options, listener: socket.socket, end: socket.socket) -> None:
    """Serve on `listener` until SIGTERM, or until the supervisor at the other `end` is gone."""
    os.setsid()  # Ctrl-C is for the supervisor
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import uvicorn

    from stages.serving import page
    from stages.serving.protocol import Protocol
    from stages.serving.service import Service

    everyone: dict = {}
    try:
        service = Service(options, lambda: everyone)
    except Exception as error:
        with suppress(OSError):  # as the supervisor may have ended meanwhile
            end.sendall(line({"failed": in_words(error)}))
        return
    limits = options.limits

    config = uvicorn.Config(
        service.app(page.routes(options.model, limits) if options.page else ()),
        http=partial(Protocol, service, {}),  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=round(limits.answer_seconds + limits.body_seconds),
    )
    server = uvicorn.Server(config)

    def stop(*signal_and_frame) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):  # from the start on; uvicorn puts these back at the end
        signal.signal(number, stop)
    supervisor = Lines(everyone.update, stop)

    def tell() -> None:
        supervisor.send({"pid": os.getpid(), "workers": service.worker_pids()})

    async def beat() -> None:
        while not supervisor.transport.is_closing():
            tell()
            await asyncio.sleep(BEAT)

    async def main() -> None:
        await supervisor.connect(end)
        try:
            await service.answering.start()
        except Exception as error:
            if not supervisor.transport.is_closing():
                supervisor.send({"failed": in_words(error)})
            return
        gc.collect()
        gc.freeze()  # what is there stays: no collection need look at it
        tell()  # before it answers, so that the supervisor watches whatever does
        beating = asyncio.create_task(beat())
        await server.serve([listener])
        beating.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())


class Supervisor:
    """One process for each of the `listeners`; one that dies, or gives no sign of life, is replaced.

    A new connection waits for the replacement, as this process holds the listeners too. The requests that a
    process had accepted die with it.
    """

    def __init__(self, options: Options, listeners: list[socket.socket]):
        from stages.serving.metrics import SupervisorMetrics

        self.options, self.listeners = options, listeners
        self.metrics = SupervisorMetrics()
        self.children: set[Child] = set()
        self.beats: dict[Child, dict] = {}
        self.served = self.stopping = False

    async def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C, and then until all that was accepted is answered.

        A UserError, if a process cannot serve the model and none ever did.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            async with asyncio.TaskGroup() as group:
                for listener in self.listeners:
                    group.create_task(self._keep(listener))
        except* UserError as errors:
            raise errors.exceptions[0] from None
        finally:
            for child in self.children:
                child.close()

    def _stop(self) -> None:
        if self.stopping:  # asked twice: at once
            self._kill()
        self.stopping = True
        for listener in self.listeners:
            listener.close()
        for child in self.children:
            child.process.terminate()
        limits = self.options.limits
        grace = limits.body_seconds + limits.answer_seconds + BEAT
        asyncio.get_running_loop().call_later(grace, self._kill)

    def _kill(self) -> None:
        for child in self.children:
            child.process.kill()

    async def _keep(self, listener: socket.socket) -> None:
        """A process on `listener`, again and again."""
        while not self.stopping:
            messages: asyncio.Queue = asyncio.Queue()
            child = Child(messages.put_nowait, partial(messages.put_nowait, None))
            await child.start(_serve, self.options, listener)
            self.children.add(child)
            pid = child.pid
            if self.stopping:  # since it was begun
                child.process.terminate()
            with suppress(TimeoutError):
                while (message := await self._next(messages, child)) is not None:
                    if "failed" in message:
                        self._failed(message["failed"])
                    elif self.beats.get(child) != message:
                        self.served = True
                        self.beats[child] = message
                        self._tell()
            if self.stopping:
                await asyncio.to_thread(child.process.join)
            was_ready = self.beats.pop(child, None) is not None
            self.children.discard(child)
            child.close()
            if not self.stopping:
                log.warning("process %d died or hung and is started again", pid)
                self.metrics.died(pid)
                self._tell()
                await asyncio.sleep(0 if was_ready else 1)

    async def _next(self, messages: asyncio.Queue, child: Child) -> dict | None:
        """What `child` says next, None at its end; a TimeoutError, if it says nothing."""
        limits = self.options.limits
        ready = child in self.beats
        try:
            async with asyncio.timeout(limits.hung_seconds if ready else limits.start_seconds):
                return await messages.get()
        except TimeoutError:
            if not ready:
                self._failed(f"not ready after {limits.start_seconds:g} s: raise --start-seconds")
            raise

    def _failed(self, why: str) -> None:
        """A process could not serve the model. It is a UserError, if none ever did."""
        log.error("%s: %s", self.options.model, why)
        if not self.served and not self.stopping:
            self.stopping = True
            raise UserError(f"{self.options.model}: {why}")

    def _tell(self) -> None:
        """Tell all processes of all, for /health and /metrics."""
        beats = self.beats.values()
        everyone = {
            "processes": [beat["pid"] for beat in beats],
            "workers": [pid for beat in beats for pid in beat["workers"]],
        }
        for child in self.beats:
            child.send(everyone)
        self.metrics.ready.set(len(everyone["processes"]))
        self.metrics.workers.set(len(everyone["workers"]))


def serve(options: Options, host: str, port: int, count: int) -> None:
    """Serve on `count` processes until SIGTERM or Ctrl-C."""
    listeners = bind(host, port, count)
    shown = f"[{host}]" if ":" in host else host
    number = listeners[0].getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="intents-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before prometheus_client is imported, here or there
        log.info("%s on http://%s:%d, processes: %d", options.model, shown, number, count)
        asyncio.run(Supervisor(options, listeners).run())
