"""Processes that each hold the model, and a bounded queue before them."""

import asyncio
import logging
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from stages import runtime
from stages.runtime import Prediction

ATTEMPTS = 3
PATIENCE = 10.0  # seconds that a worker may take for a text
log = logging.getLogger("uvicorn.error")


class QueueFull(Exception):
    """As many texts are waiting as may."""


class Abandoned(Exception):
    """Whoever asked has left."""


class WorkersFailed(Exception):
    """Every worker that took up this text died of it, or hung."""


def _serve(folder: Path, connection: Connection) -> None:
    """Answer what comes through `connection` until its other end is closed."""
    os.setsid()  # Ctrl-C is for the parent, which has answers to wait for
    classifier = runtime.load(folder, threads=1)
    connection.send("ready")
    try:
        while True:
            connection.send(classifier.predict([connection.recv()])[0])
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

    async def predict(self, text: str) -> Prediction:
        self.connection.send(text)
        async with asyncio.timeout(PATIENCE):
            return await self.receive()

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


async def started(folder: Path) -> Worker:
    """A worker that is ready."""
    worker = Worker(folder)
    try:
        await worker.receive()
    except BaseException:
        worker.close()
        raise
    return worker


@dataclass(order=True)
class Job:
    number: int
    text: str = field(compare=False)
    abandoned: Callable[[], Awaitable[bool]] = field(compare=False)
    answer: asyncio.Future = field(compare=False)
    attempts: int = field(default=0, compare=False)


class Workers:
    """`count` workers, and texts that wait for one: no more are taken in while `waiting` of them do.

    Each text is answered alone, so that an answer does not depend on what else was asked. One whose worker
    dies, or takes longer than PATIENCE, is taken up by another before those that came later, and the worker
    is replaced.
    """

    def __init__(self, folder: Path, count: int, waiting: int):
        self.folder, self.count, self.waiting = folder, count, waiting
        self.ready: dict[int, Worker] = {}
        self.restarts = 0

    async def start(self) -> None:
        """Return once all workers are ready; an OSError, if one cannot be started."""
        self.numbers = count()
        # A heap by number: a job whose worker died is put back, and comes out before those that came later.
        self.queue: asyncio.PriorityQueue[Job] = asyncio.PriorityQueue()
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(started(self.folder)) for _ in range(self.count)]
        except* EOFError:
            raise OSError(f"a worker could not load {self.folder}") from None
        self.ready = {number: task.result() for number, task in enumerate(workers)}
        self.tasks = [asyncio.create_task(self._run(*pair)) for pair in self.ready.items()]

    async def predict(self, texts: list[str], abandoned: Callable[[], Awaitable[bool]]) -> list[Prediction]:
        """The answers to `texts`, unless by the time of a text's turn it is `abandoned`.

        Raises QueueFull, Abandoned or WorkersFailed.
        """
        if self.queue.qsize() >= self.waiting:
            raise QueueFull
        loop = asyncio.get_running_loop()
        jobs = [Job(next(self.numbers), text, abandoned, loop.create_future()) for text in texts]
        for job in jobs:
            self.queue.put_nowait(job)
        try:
            return await asyncio.gather(*(job.answer for job in jobs))
        finally:
            for job in jobs:
                job.answer.cancel()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _run(self, number: int, worker: Worker) -> None:
        try:
            while True:
                job = await self.queue.get()
                if not job.answer.done() and await job.abandoned():
                    job.answer.set_exception(Abandoned())
                if job.answer.done():
                    continue
                try:
                    prediction = await worker.predict(job.text)
                except (EOFError, OSError):
                    del self.ready[number]
                    self._again(job)
                    worker.close()
                    worker = self.ready[number] = await self._replacement(number)
                else:
                    if not job.answer.done():
                        job.answer.set_result(prediction)
        finally:
            self.ready.pop(number, None)
            worker.close()

    def _again(self, job: Job) -> None:
        job.attempts += 1
        if job.attempts < ATTEMPTS:
            self.queue.put_nowait(job)
        elif not job.answer.done():
            job.answer.set_exception(WorkersFailed())

    async def _replacement(self, number: int) -> Worker:
        while True:
            self.restarts += 1
            log.warning("worker %d died or hung and is started again", number)
            try:
                return await started(self.folder)
            except (EOFError, OSError):
                await asyncio.sleep(1)
