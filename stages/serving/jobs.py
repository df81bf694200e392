"""Texts that wait to be answered, and the model in this process that answers them."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from stages.serving.model import Answer, Model

SLICE = 0.001  # seconds of answering on end, from warm caches, before connections are looked at again
LONG = 0.05  # seconds in the queue, after which it is asked whether the client is still there


class QueueFull(Exception):
    """As many texts are waiting as may."""


class Abandoned(Exception):
    """Whoever asked has left."""


@dataclass(order=True, slots=True)
class Job:
    number: int
    text: str = field(compare=False)
    abandoned: Callable[[], bool] = field(compare=False)
    answer: asyncio.Future = field(compare=False)
    attempts: int = field(default=0, compare=False)
    since: float = field(default_factory=time.monotonic, compare=False)


class Answering(ABC):
    """A queue, and what answers the texts in it in the order that they came.

    No more are taken in while `limit` of them wait. `waiting` is told how many do, when that changes.
    """

    def __init__(self, limit: int, waiting: Callable[[float], None]):
        self.limit, self.waiting = limit, waiting
        self.numbers = count()
        # A heap by number: a job that is put back comes out before those that came later.
        self.queue: list[Job] = []
        self.told = 0

    @abstractmethod
    async def start(self) -> None:
        """Return once texts can be answered."""

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    def go_on(self) -> None:
        """Take up what waits, as far as there is room for it. Called whenever a job is put."""

    async def ask(self, texts: list[str], abandoned: Callable[[], bool]) -> list[Answer]:
        """The answers to `texts`, unless by the time of a text's turn it is `abandoned`.

        Raises QueueFull, Abandoned, or what went wrong with a text.
        """
        if len(self.queue) >= self.limit:
            raise QueueFull
        new_answer = asyncio.get_running_loop().create_future
        jobs = [Job(next(self.numbers), text, abandoned, new_answer()) for text in texts]
        for job in jobs:
            self.put(job)
        try:
            if len(jobs) == 1:
                return [await jobs[0].answer]
            return await asyncio.gather(*(job.answer for job in jobs))
        finally:
            for job in jobs:
                job.answer.cancel()

    def put(self, job: Job) -> None:
        heappush(self.queue, job)
        self.go_on()

    def take(self) -> Job | None:
        """The next job that somebody waits for."""
        job = None
        while self.queue and job is None:
            job = heappop(self.queue)
            if job.answer.done():
                job = None
            elif time.monotonic() - job.since >= LONG and job.abandoned():
                job.answer.set_exception(Abandoned())
                job = None
        return job

    def tell(self) -> None:
        """Tell `waiting`, if there is something new."""
        if len(self.queue) != self.told:
            self.told = len(self.queue)
            self.waiting(self.told)


class Here(Answering):
    """The model in this process; between slices of its time the event loop reads, refuses and sends."""

    def __init__(self, folder: Path, limit: int, waiting: Callable[[float], None]):
        super().__init__(limit, waiting)
        self.folder = folder
        self.busy = False

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.model = Model(self.folder)

    async def stop(self) -> None:
        pass

    def go_on(self) -> None:
        if not self.busy:
            self.busy = True
            self.loop.call_soon(self._answer)

    def _answer(self) -> None:
        """Answer what waits, for SLICE seconds; then what comes after, once the loop has been round."""
        end = time.monotonic() + SLICE
        while (job := self.take()) is not None:
            self.tell()
            try:
                job.answer.set_result(self.model.answer(job.text))
            except Exception as error:
                job.answer.set_exception(error)
            if time.monotonic() >= end:
                break
        self.tell()
        self.busy = bool(self.queue)
        if self.busy:
            self.loop.call_soon(self._answer)
