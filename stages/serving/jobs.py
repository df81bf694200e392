"""Texts that wait to be answered, and the model in this process that answers them."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from stages.serving.model import Answer, Model, Run
from stages.serving.options import Limits

SLICE = 0.001  # seconds of answering on end, from warm caches, before connections are looked at again
LONG = 0.05  # seconds in the queue, after which it is asked whether the client is still there
log = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many texts are waiting as may."""


class TooLate(Exception):
    """There was no answer in the time that there is for it."""


class Abandoned(Exception):
    """Whoever asked has left."""


Result = list[Answer] | BaseException


class Request:
    """Texts that are asked together; `then` is called once, with all answers or what went wrong."""

    __slots__ = ("abandoned", "answers", "missing", "over", "since", "then")

    def __init__(self, texts: int, then: Callable[[Result], None], abandoned: Callable[[], bool]):
        self.then, self.abandoned = then, abandoned
        self.answers: list = [None] * texts
        self.missing = texts
        self.since = time.monotonic()
        self.over = False

    def end(self, result: Result) -> None:
        if not self.over:
            self.over = True
            try:
                self.then(result)
            except Exception:  # the others are still to be told
                log.exception("a request got no answer")


@dataclass(slots=True)
class Job:
    number: int
    request: Request
    index: int  # of the text in its request
    text: str
    attempts: int = 0

    def answered(self, answer: Answer) -> None:
        request = self.request
        request.answers[self.index] = answer
        request.missing -= 1
        if not request.missing:
            request.end(request.answers)


class Answering(ABC):
    """A queue, and what answers the texts in it in the order that they came.

    No more are taken in while `limits.queue` of them wait. `waiting` is told how many do, when that changes.
    """

    def __init__(self, limits: Limits, waiting: Callable[[float], None]):
        self.limits, self.waiting = limits, waiting
        self.numbers = count()
        # A heap by number: a job that is put back comes out before those that came later.
        self.queue: list[tuple[int, Job]] = []
        self.told = 0

    @abstractmethod
    async def start(self) -> None:
        """Return once texts can be answered."""

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    def go_on(self) -> None:
        """Take up what waits, as far as there is room for it. Called whenever a job is put."""

    def ask(self, texts: list[str], then: Callable[[Result], None], abandoned: Callable[[], bool]) -> Request:
        """Have `texts` answered, unless by the time of a text's turn the request is over or `abandoned`.

        `then` gets the answers, or QueueFull, TooLate, Abandoned, or what went wrong with a text.
        """
        request = Request(len(texts), then, abandoned)
        if len(self.queue) >= self.limits.queue:
            request.end(QueueFull())
        else:
            for index, text in enumerate(texts):
                self.put(Job(next(self.numbers), request, index, text))
        return request

    def put(self, job: Job) -> None:
        heappush(self.queue, (job.number, job))
        self.go_on()

    def take(self) -> Job | None:
        """The next job that somebody waits for."""
        while self.queue:
            _, job = heappop(self.queue)
            request = job.request
            if request.over:
                continue
            waited = time.monotonic() - request.since
            if waited >= self.limits.answer_seconds:
                request.end(TooLate())
            elif waited >= LONG and request.abandoned():
                request.end(Abandoned())
            else:
                return job
        return None

    def tell(self) -> None:
        """Tell `waiting`, if there is something new."""
        if len(self.queue) != self.told:
            self.told = len(self.queue)
            self.waiting(self.told)


class Here(Answering):
    """The model in this process; between slices of its time the event loop reads, refuses and sends."""

    def __init__(self, folder: Path, limits: Limits, waiting: Callable[[float], None]):
        super().__init__(limits, waiting)
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
        jobs, runs = [], []
        try:
            while (job := self.take()) is not None:
                try:
                    runs.append(self.model.run(job.text))
                    jobs.append(job)
                except BaseException as error:  # a panic of the tokenizer's Rust is no Exception
                    job.request.end(error)
                if time.monotonic() >= end:
                    break
        finally:
            self.tell()
            self.busy = bool(self.queue)
            if self.busy:
                self.loop.call_soon(self._answer)
            if jobs:
                self._answer_all(jobs, runs)

    def _answer_all(self, jobs: list[Job], runs: list[Run]) -> None:
        try:
            answers = self.model.answers(runs)
        except Exception as error:
            for job in jobs:
                job.request.end(error)
        else:
            for job, answer in zip(jobs, answers, strict=True):
                job.answered(answer)
