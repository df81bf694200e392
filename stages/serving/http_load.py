"""The HTTP service under load, as its clients see it: requests that arrive at random, whatever is answered.

The clients have the last core and look for answers without pause, so that what they take is no part of a
latency. The service has the other cores, or so many that the clients keep up. Of one core, they share it.
"""

import json
import os
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path

import httptools
import pandas as pd
from tqdm import tqdm

from stages.core.settings import LoadTest, Scenario
from stages.serving import soak
from stages.serving.load import FULL

CONNECTIONS = 32  # to each process
MOST = 4  # cores of the service: a request takes 20 us of the clients' core
PATIENCE = 30.0  # seconds; a request without an answer of 200 counts as one that took so long


def served(scenarios: Mapping[str, Scenario]) -> dict[str, Scenario]:
    """Those that the service can serve: it pads to no length."""
    return {name: scenario for name, scenario in scenarios.items() if scenario.length is None}


class Connection:
    """A connection that asks one thing at a time. `status` is of the last answer, None if it broke."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.parser = httptools.HttpResponseParser(self)
        self.arrival = 0.0  # of what it asks
        self.answered = True
        self.status: int | None = None

    def ask(self, request: bytes, arrival: float) -> None:
        self.arrival, self.answered, self.status = arrival, False, None
        self.socket.sendall(request)

    def read(self) -> bool:
        """Read what is there. Tells whether that is an answer, or the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if data:
            self.parser.feed_data(data)
        else:
            self.status = None
        return self.answered or not data

    def on_message_complete(self) -> None:
        self.answered, self.status = True, self.parser.get_status_code()


class Clients:
    """`count` connections to the service on `port` that take requests in turn, `bodies` one after another.

    A request is timed from its arrival, and waits where all connections are busy. So an answer that is late
    delays no arrival, and the wait counts (no coordinated omission). Clients who are `alone` on their core do
    not sleep.
    """

    def __init__(self, port: int, bodies: Iterator[bytes], count: int, alone: bool):
        self.bodies, self.alone = bodies, alone
        # select(2) waits to the microsecond, and epoll to the millisecond.
        self.selector = selectors.DefaultSelector() if alone else selectors.SelectSelector()
        self.connections = [Connection(port) for _ in range(count)]
        for connection in self.connections:
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        self.free = deque(self.connections)
        self.busy: set[Connection] = set()
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.ms: list[float] = []

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *error: object) -> None:
        self.selector.close()
        for connection in self.connections:
            connection.socket.close()

    def _request(self) -> bytes:
        body = next(self.bodies)
        return b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def _ask(self, request: bytes, arrival: float) -> None:
        if not self.free:
            self.waiting.append((request, arrival))
            return
        connection = self.free.popleft()
        self.busy.add(connection)
        try:
            connection.ask(request, arrival)
        except OSError:
            self._done(connection)

    def _done(self, connection: Connection) -> None:
        self.busy.discard(connection)
        taken = time.perf_counter() - connection.arrival
        self.ms.append(1000 * (taken if connection.status == 200 else PATIENCE))
        if connection.status is not None:
            self.free.append(connection)

    def _answers(self, until: float) -> None:
        """Take the answers that are there; if there is none, wait for one `until` then at most."""
        seconds = 0 if self.alone else max(0, until - time.perf_counter())
        for key, _ in self.selector.select(seconds):
            connection: Connection = key.data
            if connection.read():
                if connection in self.busy:
                    self._done(connection)
                if connection.status is None:  # it broke
                    self.selector.unregister(connection.socket)
                    if connection in self.free:
                        self.free.remove(connection)
                elif self.waiting:
                    self._ask(*self.waiting.popleft())

    def _all_answers(self) -> list[float]:
        deadline = time.perf_counter() + PATIENCE
        while self.busy and time.perf_counter() < deadline:
            self._answers(deadline)
        self.ms += [1000 * PATIENCE] * (len(self.busy) + len(self.waiting))
        self.waiting.clear()
        return self.ms

    def closed_loop(self, connections: int, seconds: float) -> list[float]:
        """Ask again as soon as there is an answer, on so many connections; milliseconds of each request."""
        self.ms = []
        start = time.perf_counter()
        while (now := time.perf_counter()) < start + seconds:
            while len(self.busy) < connections and self.free:
                self._ask(self._request(), now)
            self._answers(start + seconds)
        answered = len(self.ms)
        return self._all_answers()[:answered]

    def open_loop(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        """Requests that arrive at random, `rate` a second (Poisson), for `seconds`; milliseconds of each."""
        self.ms = []
        start = time.perf_counter()
        arrival = start + rng.expovariate(rate)
        while arrival < start + seconds:
            if arrival <= time.perf_counter():
                self._ask(self._request(), arrival)
                arrival += rng.expovariate(rate)
            else:
                self._answers(arrival)
        return self._all_answers()


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
    return set(cores[:-1][:MOST] or cores), {cores[-1]}


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
    requests = {name: cycle(bodies) for name in scenarios}
    rng = random.Random(seed)
    parts = []
    count = CONNECTIONS * len(theirs)

    def clients(name: str) -> Clients:
        return Clients(ports[name], requests[name], count, alone=theirs != ours)

    with ExitStack() as stack:
        with pinned(theirs):
            ports = {
                name: stack.enter_context(
                    soak.service(folders[name], "--cache", str(params.cache if scenario.cached else 0))
                )
                for name, scenario in scenarios.items()
            }
        stack.enter_context(pinned(ours))
        for name, scenario in scenarios.items():  # a cache as it is after a while
            enough = (4 * params.cache if scenario.cached else 50) * len(theirs)
            with clients(name) as some:
                while enough > 0:
                    enough -= len(some.closed_loop(count, 0.05))
        for turn in tqdm(range(params.rounds), "http load", unit="round"):
            for name in rng.sample(list(ports), len(ports)):
                with clients(name) as some:
                    taken = {FULL: some.closed_loop(count // 2, params.seconds)}
                    for load in params.loads:
                        if rate := rates[name, load] * len(theirs):  # 0, if no query came in the time
                            taken[load] = some.open_loop(rate, params.seconds, rng)
                for load, ms in taken.items():
                    table = pd.DataFrame({"ms": ms}, dtype=float)
                    parts.append(table.assign(round=turn, scenario=name, load=load, worker=0))
    return pd.concat(parts, ignore_index=True)
