"""Processes that run the model for another, which loses no request when one of them dies."""

import asyncio
import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from stages.serving.child import Child, in_words, line
from stages.serving.jobs import Answering, Job, TooLate
from stages.serving.model import Answer, Model
from stages.serving.options import Limits

ATTEMPTS = 3
AHEAD = 8  # texts that a worker is sent before it has answered, so that one message brings several
log = logging.getLogger(__name__)


class WorkersFailed(Exception):
    """Every worker that took up this text died of it, or hung."""


def _work(folder: Path, end: socket.socket) -> None:
    """Answer each text that comes through `end`, in turn, until its other end is closed."""
    os.setsid()  # Ctrl-C is for the service, which has answers to wait for
    try:
        model = Model(folder)
    except Exception as error:
        with suppress(OSError):  # as the service may have ended meanwhile
            end.sendall(line({"failed": in_words(error)}))
        return
    try:
        end.sendall(line("ready"))
        with end.makefile("rb") as texts:
            for text in texts:
                try:
                    answer: object = model.answer(json.loads(text))
                except Exception as error:
                    answer = in_words(error)
                end.sendall(line(answer))
    except OSError:
        return


class Worker:
    """One process with the model, and the jobs that it was sent, the oldest of which it is at."""

    def __init__(self, folder: Path, answered: Callable[[], None], died: Callable[["Worker"], None]):
        self.answered = answered
        self.folder = folder
        self.child = Child(self._heard, lambda: died(self))
        self.jobs: deque[Job] = deque()
        self.ready = asyncio.get_running_loop().create_future()
        self.since = 0.0  # when it was sent the oldest job, or had answered the one before

    async def start(self) -> None:
        await self.child.start(_work, self.folder)

    def send(self, job: Job) -> None:
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        self.child.send(job.text)

    def _heard(self, message) -> None:
        if isinstance(message, dict):
            self.ready.set_exception(OSError(message["failed"]))
            return
        if not self.ready.done():
            self.ready.set_result(None)
            return
        self.since = time.monotonic()
        job = self.jobs.popleft()
        if isinstance(message, str):
            job.request.end(RuntimeError(message))
        else:
            job.answered(Answer(*message))
        self.answered()


class Workers(Answering):
    """`count` workers. One that dies, or takes longer than `limits.hung_seconds` for a text, is replaced.

    The text that it was at is taken up by another before those that came later, up to ATTEMPTS times.
    `restarted` is called for each that is replaced.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        limits: Limits,
        waiting: Callable[[float], None] = lambda number: None,
        restarted: Callable[[], None] = lambda: None,
    ):
        super().__init__(limits, waiting)
        self.folder, self.count = folder, count
        self.restarted = restarted
        self.ready: list[Worker] = []

    async def start(self) -> None:
        """An OSError, if a worker cannot be started."""
        self.started: list[Worker] = []
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.count):
                    group.create_task(self._start_one())
        except* OSError as errors:
            await self._close()
            raise OSError(f"a worker could not load it: {errors.exceptions[0]}") from None
        self.tasks = {asyncio.create_task(self._watch())}

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._close()

    async def _close(self) -> None:
        for worker in self.started:
            worker.child.close()

    def go_on(self) -> None:
        # To the least busy of them, and only as long as one has room.
        while self.queue and self.ready:
            worker = min(self.ready, key=lambda worker: len(worker.jobs))
            if len(worker.jobs) >= AHEAD:
                break
            if job := self.take():
                worker.send(job)
        self.tell()

    async def _start_one(self) -> None:
        worker = Worker(self.folder, self.go_on, self._died)
        self.started.append(worker)
        await worker.start()
        try:
            async with asyncio.timeout(self.limits.start_seconds):
                await worker.ready
        except TimeoutError:
            worker.child.process.kill()
            raise OSError(
                f"it was not ready after {self.limits.start_seconds:g} s: raise --start-seconds"
            ) from None
        self.ready.append(worker)
        self.go_on()

    def _died(self, worker: Worker) -> None:
        worker.child.close()
        self.started.remove(worker)
        if worker not in self.ready:
            if not worker.ready.done():
                worker.ready.set_exception(OSError("it died before it was ready"))
            return
        self.ready.remove(worker)
        for index, job in enumerate(worker.jobs):
            job.attempts += index == 0  # it was at the oldest, and had not taken up the others
            if job.attempts < ATTEMPTS:
                self.put(job)
            else:
                job.request.end(WorkersFailed())
        task = asyncio.create_task(self._replace(worker.child.pid))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _replace(self, pid: int) -> None:
        while True:
            log.warning("worker %d died or hung and is started again", pid)
            self.restarted()
            try:
                return await self._start_one()
            except OSError:
                await asyncio.sleep(1)

    async def _watch(self) -> None:
        """Kill workers that hang, and end requests that take too long."""
        limits = self.limits
        while True:
            await asyncio.sleep(min(1.0, limits.hung_seconds / 4, limits.answer_seconds / 4))
            now = time.monotonic()
            for worker in self.ready:
                if worker.jobs and now - worker.since > limits.hung_seconds:
                    worker.child.process.kill()
            jobs = chain((job for _, job in self.queue), *(worker.jobs for worker in self.ready))
            late = [job.request for job in jobs if now - job.request.since >= limits.answer_seconds]
            for request in late:  # whose client may then ask, which changes the queue
                request.end(TooLate())
