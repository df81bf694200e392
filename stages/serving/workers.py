"""Processes that each hold the model, and a bounded queue before them."""

import asyncio
import logging
import multiprocessing
import signal
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from stages import runtime
from stages.runtime import Prediction

ATTEMPTS = 3
log = logging.getLogger("uvicorn.error")


class QueueFull(Exception):
    """As many requests are waiting as may."""


class WorkersFailed(Exception):
    """Every worker that took up this request died of it."""


def _serve(folder: Path, connection: Connection) -> None:
    """Answer what comes through `connection` until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which has answers to wait for
    classifier = runtime.load(folder, threads=1)
    connection.send("ready")
    try:
        while True:
            texts = connection.recv()
            connection.send([classifier.predict([text])[0] for text in texts])
    except EOFError:
        return


class Worker:
    """One process with the model in `folder`. A dead one raises EOFError or OSError."""

    def __init__(self, folder: Path):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
        self.process.start()
        theirs.close()

    async def receive(self):
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.connection.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self.connection.fileno())
        return self.connection.recv()

    async def predict(self, texts: list[str]) -> list[Prediction]:
        self.connection.send(texts)
        return await self.receive()

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


@dataclass(order=True)
class Request:
    number: int
    texts: list[str] = field(compare=False)
    answer: asyncio.Future = field(compare=False)
    attempts: int = field(default=0, compare=False)


class Workers:
    """`count` workers, and at most `waiting` requests that none has taken up yet.

    A request whose worker dies is taken up by another, before those that came later; the dead worker is
    replaced. Each text is answered alone, so that an answer does not depend on what else was asked.
    """

    def __init__(self, folder: Path, count: int, waiting: int):
        self.folder, self.count, self.waiting = folder, count, waiting
        self.ready: dict[int, Worker] = {}
        self.restarts = 0

    async def start(self) -> None:
        """Return once all workers are ready; an OSError, if one cannot be started."""
        self.numbers = count()
        self.queue: asyncio.PriorityQueue[Request] = asyncio.PriorityQueue()
        workers = [Worker(self.folder) for _ in range(self.count)]
        try:
            for worker in workers:
                await worker.receive()
        except EOFError:
            for worker in workers:
                worker.close()
            raise OSError(f"a worker could not load {self.folder}") from None
        self.tasks = [asyncio.create_task(self._run(i, worker)) for i, worker in enumerate(workers)]

    async def predict(self, texts: list[str]) -> list[Prediction]:
        """Raises QueueFull, or WorkersFailed."""
        if self.queue.qsize() >= self.waiting:
            raise QueueFull
        request = Request(next(self.numbers), texts, asyncio.get_running_loop().create_future())
        self.queue.put_nowait(request)
        return await request.answer

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _run(self, number: int, worker: Worker) -> None:
        try:
            while True:
                self.ready[number] = worker
                request = await self.queue.get()
                if request.answer.done():  # its client has left
                    continue
                try:
                    predictions = await worker.predict(request.texts)
                except (EOFError, OSError):
                    del self.ready[number]
                    self._again(request)
                    worker.close()
                    worker = await self._replacement(number)
                else:
                    if not request.answer.done():
                        request.answer.set_result(predictions)
        finally:
            self.ready.pop(number, None)
            worker.close()

    def _again(self, request: Request) -> None:
        request.attempts += 1
        if request.attempts < ATTEMPTS:
            self.queue.put_nowait(request)
        elif not request.answer.done():
            request.answer.set_exception(WorkersFailed())

    async def _replacement(self, number: int) -> Worker:
        while True:
            self.restarts += 1
            log.warning("worker %d died and is started again", number)
            worker = Worker(self.folder)
            try:
                await worker.receive()
                return worker
            except (EOFError, OSError):
                worker.close()
                await asyncio.sleep(1)
