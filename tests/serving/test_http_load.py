"""The clients of the open loop, against a server that is slow on purpose, and the service."""

import asyncio
import queue
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle

import pandas as pd
import pytest

from stages.core import settings
from stages.serving import capacity, http_load, load
from stages.serving.http_load import Clients

SETTINGS = settings.load().load_test


class Server(asyncio.Protocol):
    """Answers a request of each connection after `seconds`, with `status`; it drops those of `drops`."""

    def __init__(self, seconds, status=200, drops=False):
        self.seconds, self.status, self.drops = seconds, status, drops

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        assert data.startswith(b"POST /predict HTTP/1.1\r\n") and data.endswith(b"{}")
        asyncio.get_running_loop().call_later(self.seconds, self.answer)

    def answer(self):
        if self.drops:
            self.transport.abort()
        else:
            self.transport.write(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\n{}" % self.status)


@contextmanager
def serving(**server):
    """The port of a Server, in a thread of its own."""
    ports, end = queue.Queue(), threading.Event()

    async def serve():
        made = await asyncio.get_running_loop().create_server(lambda: Server(**server), "127.0.0.1", 0)
        async with made:
            ports.put(made.sockets[0].getsockname()[1])
            await asyncio.to_thread(end.wait)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, serve())
        try:
            yield ports.get()
        finally:
            end.set()


@pytest.fixture(params=[True, False], ids=["alone", "not alone"])
def milliseconds(request):
    """A function that gives what `ask(clients)` does, with so many connections to a Server."""

    def measure(ask, connections, **server):
        with serving(**server) as port, Clients(port, cycle([b"{}"]), connections, request.param) as clients:
            return ask(clients)

    return measure


class EverySecond:
    def __init__(self, seconds):
        self.seconds = seconds

    def expovariate(self, rate):
        return self.seconds


def test_the_wait_for_a_connection_counts(milliseconds):
    """One connection, and a request every 50 ms that takes 100: each waits 50 ms longer than the last."""
    ms = milliseconds(lambda clients: clients.open_loop(20, 0.26, EverySecond(0.05)), 1, seconds=0.1)
    assert len(ms) == 5
    assert all(taken >= 100 + 50 * number - 1 for number, taken in enumerate(ms))


def test_with_connections_enough_none_waits(milliseconds):
    ms = milliseconds(lambda clients: clients.open_loop(200, 0.3, random.Random(0)), 32, seconds=0.05)
    assert 30 < len(ms) < 90
    assert sorted(ms)[len(ms) // 2] < 90  # 50, and what a busy machine adds


def test_a_closed_loop_asks_again(milliseconds):
    ms = milliseconds(lambda clients: clients.closed_loop(2, 0.55), 4, seconds=0.1)
    assert 4 <= len(ms) <= 12 and min(ms) >= 99


@pytest.mark.parametrize("server", [{"status": 503}, {"drops": True}])
def test_what_is_refused_or_lost_counts_as_long(server, milliseconds):
    ms = milliseconds(
        lambda clients: clients.open_loop(20, 0.11, EverySecond(0.05)), 4, seconds=0.01, **server
    )
    assert ms == [1000 * http_load.PATIENCE] * 2


def test_a_connection_that_breaks_while_it_is_free(milliseconds):
    """One of two, as the answer drops it: its request is lost, and the other goes on."""

    def ask(clients):
        clients.connections[0].socket.shutdown(socket.SHUT_RDWR)
        return clients.open_loop(20, 0.26, EverySecond(0.05))

    ms = milliseconds(ask, 2, seconds=0.01)
    assert len(ms) == 5 and sum(taken == 1000 * http_load.PATIENCE for taken in ms) <= 1


def test_the_service_under_load(models):
    """All but the padded scenario, each at each rate, and the plan of it."""
    scenarios = {
        "padded": settings.Scenario(model="student-ort", length=16),
        "int8": settings.Scenario(model="student-ort"),
        "cached": settings.Scenario(model="student-ort", cached=True),
    }
    params = SETTINGS.model_copy(
        update={"scenarios": scenarios, "rounds": 2, "seconds": 0.3, "loads": [0.25, 0.5], "cache": 3}
    )
    params = params.model_copy(update={"p99_ms": 1e5, "machine_cores": 4, "machine_price": 0.5})
    folders = dict.fromkeys(scenarios, models / "student-ort")
    rates = {(name, level): 200 * level for name in scenarios for level in params.loads}
    times = http_load.run(folders, ["my balance", "send money"], rates, params, seed=0)
    seen = times.groupby("scenario")["load"].agg(set).to_dict()
    assert seen == {name: {load.FULL, 0.25, 0.5} for name in ("int8", "cached")}
    assert (times["ms"] > 0).all() and (times["ms"] < 1000 * http_load.PATIENCE).all()
    loads = capacity.under_load(times, params, cores=1)
    offered = loads.set_index(["scenario", "load"])["offered"]
    assert offered["int8", 0.5] == pytest.approx(100, rel=0.5)
    plan = capacity.http_plan(times, loads, loads.assign(p99_ms=1.5), params, cores=1)
    assert plan.index.tolist() == ["int8", "cached"]
    row = plan.loc["int8"]
    assert row["p99_ms_in_process"] == 1.5
    assert row["per_core"] == offered["int8", 0.5]
    assert row["machines"] == -(-row["cores"] // 4) and row["price_an_hour"] == row["machines"] / 2
    assert isinstance(plan, pd.DataFrame)
