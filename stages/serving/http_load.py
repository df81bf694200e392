"""The HTTP service under load, as its clients see it: requests that arrive at random, whatever is answered.

The service has all cores but the last, and the clients have the last. Of one core, they share it.
"""

import asyncio
import json
import os
import random
import selectors
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import cycle
from pathlib import Path

import httptools
import pandas as pd
from tqdm import tqdm

from stages.core.settings import LoadTest, Scenario
from stages.serving import soak
from stages.serving.load import FULL

CONNECTIONS = 32  # to each process
PATIENCE = 30.0  # seconds; a request without an answer of 200 counts as one that took so long


def served(scenarios: Mapping[str, Scenario]) -> dict[str, Scenario]:
    """Those that the service can serve: it pads to no length."""
    return {name: scenario for name, scenario in scenarios.items() if scenario.length is None}


class Connection(asyncio.Protocol):
    """A connection that asks one thing at a time.

    `done` is called with it and the status of the answer, None if the connection broke.
    """

    def __init__(self, done: Callable[["Connection", int | None], None]):
        self.done = done
        self.parser = httptools.HttpResponseParser(self)
        self.arrival: float | None = None  # of what it asks, None while it is free

    def connection_made(self, transport) -> None:
        self.transport = transport

    def ask(self, request: bytes, arrival: float) -> None:
        self.arrival = arrival
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.done(self, self.parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        if self.arrival is not None:
            self.done(self, None)


class Clients:
    """Connections to the service on `port` that take requests in turn; of each, the milliseconds it took.

    A request is timed from its arrival, and waits where all connections are busy. So an answer that is late
    delays no arrival, and the wait counts (no coordinated omission).
    """

    def __init__(self, port: int, bodies: Iterator[bytes]):
        self.port, self.bodies = port, bodies
        self.free: deque[Connection] = deque()
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.ms: list[float] = []
        self.again = False

    @asynccontextmanager
    async def connected(self, count: int) -> AsyncIterator["Clients"]:
        loop = asyncio.get_running_loop()
        self.count = count
        for _ in range(count):
            _, connection = await loop.create_connection(
                lambda: Connection(self._done), "127.0.0.1", self.port
            )
            self.free.append(connection)
        yield self
        for connection in self.free:
            connection.transport.close()

    def _request(self) -> bytes:
        body = next(self.bodies)
        return b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def _done(self, connection: Connection, status: int | None) -> None:
        now = time.perf_counter()
        assert connection.arrival is not None
        self.ms.append(1000 * (now - connection.arrival if status == 200 else PATIENCE))
        connection.arrival = None
        if status is None:
            self.count -= 1
        elif self.waiting:
            connection.ask(*self.waiting.popleft())
        elif self.again:
            connection.ask(self._request(), now)
        else:
            self.free.append(connection)

    async def _all_free(self) -> None:
        deadline = time.perf_counter() + PATIENCE
        while len(self.free) < self.count and time.perf_counter() < deadline:
            await asyncio.sleep(0.005)
        unanswered = self.count - len(self.free) + len(self.waiting)
        self.ms += [1000 * PATIENCE] * unanswered

    async def closed_loop(self, connections: int, seconds: float) -> list[float]:
        """Ask again as soon as there is an answer, on so many connections."""
        self.ms, self.again = [], True
        for _ in range(connections):
            self.free.popleft().ask(self._request(), time.perf_counter())
        await asyncio.sleep(seconds)
        self.again = False
        taken = self.ms
        await self._all_free()
        return taken

    async def open_loop(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        """Requests that arrive at random, `rate` a second (Poisson), for `seconds`."""
        self.ms = []
        start = time.perf_counter()
        arrival = start + rng.expovariate(rate)
        while arrival < start + seconds:
            await asyncio.sleep(arrival - time.perf_counter())
            if self.free:
                self.free.popleft().ask(self._request(), arrival)
            else:
                self.waiting.append((self._request(), arrival))
            arrival += rng.expovariate(rate)
        await self._all_free()
        return self.ms


@contextmanager
def pinned(cores: set[int]):
    """Run this process, and those it starts meanwhile, on `cores` alone."""
    if not hasattr(os, "sched_setaffinity"):  # on macOS
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def shares() -> tuple[set[int], set[int]]:
    """The cores of the service, and that of its clients."""
    if not hasattr(os, "sched_getaffinity"):
        return {0}, {0}
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[:-1] or cores), {cores[-1]}


def run(
    folders: Mapping[str, Path],
    queries: Sequence[str],
    rates: Mapping[tuple[str, float], float],
    params: LoadTest,
    seed: int,
) -> pd.DataFrame:
    """Put a service for each scenario that can be served under load, in turn in each round.

    First CONNECTIONS / 2 a process ask as fast as they are answered. Then requests arrive at `rates`, a
    second and core, of a scenario and load, those of the load test without HTTP. Gives a row for each
    request: `round`, `scenario`, `load` (FULL, of a closed loop), `ms`, `worker` (0: all together).
    """
    scenarios = {name: scenario for name, scenario in served(params.scenarios).items() if name in folders}
    theirs, ours = shares()
    bodies = [json.dumps({"text": query}).encode() for query in queries]
    rng = random.Random(seed)
    parts = []

    async def measure(ports: dict[str, int]) -> None:
        requests = {name: cycle(bodies) for name in ports}
        for name, port in ports.items():  # a cache as it is after a while
            enough = (4 * params.cache if scenarios[name].cached else 50) * len(theirs)
            async with Clients(port, requests[name]).connected(CONNECTIONS * len(theirs)) as clients:
                while enough > 0:
                    enough -= len(await clients.closed_loop(CONNECTIONS, 0.05))
        for turn in tqdm(range(params.rounds), "http load", unit="round"):
            for name in rng.sample(list(ports), len(ports)):
                async with Clients(ports[name], requests[name]).connected(
                    CONNECTIONS * len(theirs)
                ) as clients:
                    half = CONNECTIONS * len(theirs) // 2
                    taken = {FULL: await clients.closed_loop(half, params.seconds)}
                    for load in params.loads:
                        if rate := rates[name, load] * len(theirs):  # 0, if no query came in the time
                            taken[load] = await clients.open_loop(rate, params.seconds, rng)
                for load, ms in taken.items():
                    table = pd.DataFrame({"ms": ms}, dtype=float)
                    parts.append(table.assign(round=turn, scenario=name, load=load, worker=0))

    with ExitStack() as stack:
        with pinned(theirs):
            ports = {
                name: stack.enter_context(
                    soak.service(folders[name], "--cache", str(params.cache if scenario.cached else 0))
                )
                for name, scenario in scenarios.items()
            }
        with pinned(ours), asyncio.Runner(loop_factory=_precise_loop) as runner:
            runner.run(measure(ports))
    return pd.concat(parts, ignore_index=True)


def _precise_loop() -> asyncio.AbstractEventLoop:
    """select(2) waits to the microsecond, and epoll and uvloop to the millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())
