import asyncio
import os
import signal

import pytest
from asking import ask, here

from stages.serving import workers
from stages.serving.jobs import Job, Request, TooLate
from stages.serving.model import Model
from stages.serving.options import Limits
from stages.serving.workers import AHEAD, Workers, WorkersFailed

TEXTS = ["my balance", "send money", "rent a car"]


def serve(folder, use, **limits):
    """The result of `use(pool)`, of a pool of one worker."""

    async def main():
        pool = Workers(folder, 1, Limits(**limits), restarted=lambda: restarts.append(1))
        await pool.start()
        try:
            return await use(pool)
        finally:
            await pool.stop()

    restarts = []
    return asyncio.run(main()), len(restarts)


def pid(pool):
    (worker,) = pool.ready
    return worker.child.pid


def answers(folder, texts):
    model = Model(folder)
    return [model.answer(text) for text in texts]


def test_a_worker_that_hangs_is_replaced(models):
    folder = models / "student-ort"

    async def use(pool):
        os.kill(pid(pool), signal.SIGSTOP)
        return await ask(pool, TEXTS)

    assert serve(folder, use, hung_seconds=0.5) == (answers(folder, TEXTS), 1)


def test_a_client_whose_answer_is_late_asks_again(models):
    """And again, while other texts wait for the same worker."""
    folder = models / "student-ort"
    late = []

    async def use(pool):
        os.kill(pid(pool), signal.SIGSTOP)
        again = asyncio.get_running_loop().create_future()

        def then(result):
            late.append(result)
            if len(late) == 1:
                pool.ask(TEXTS[:1], again.set_result, here)

        for text in TEXTS * AHEAD:  # some of which are in the queue
            pool.ask([text], then, here)
        await asyncio.sleep(2.6)
        os.kill(pid(pool), signal.SIGCONT)
        return [await again, await ask(pool, TEXTS)]

    found, restarts = serve(folder, use, answer_seconds=2.0)
    assert found == [answers(folder, TEXTS[:1]), answers(folder, TEXTS)] and restarts == 0
    assert [type(result) for result in late] == [TooLate] * len(TEXTS * AHEAD)


def test_a_text_that_kills_its_workers_is_given_up(models, monkeypatch):
    """And those that the worker had been sent with it are answered."""
    monkeypatch.setattr(workers, "ATTEMPTS", 1)
    folder = models / "student-ort"

    async def use(pool):
        os.kill(pid(pool), signal.SIGSTOP)
        asked = [asyncio.create_task(ask(pool, [text])) for text in TEXTS * AHEAD]
        await asyncio.sleep(0.1)
        os.kill(pid(pool), signal.SIGKILL)
        with pytest.raises(WorkersFailed):
            await asked[0]
        return [answer for task in asked[1:] for answer in await task]

    assert serve(folder, use) == (answers(folder, (TEXTS * AHEAD)[1:]), 1)


def test_a_text_that_the_model_fails_on(models):
    """The worker lives, and the next text is answered."""
    folder = models / "student-ort"

    async def use(pool):
        failed = asyncio.Future()
        pool.ready[0].child.send(5)
        pool.ready[0].jobs.append(Job(-1, Request(1, failed.set_result, here), 0, ""))
        assert "TypeError" in str(await failed)
        return await ask(pool, TEXTS[:1])

    assert serve(folder, use) == (answers(folder, TEXTS[:1]), 0)


def test_a_model_that_does_not_load(models):
    (models / "student-ort" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(OSError, match="a worker could not load it: InvalidProtobuf"):
        asyncio.run(Workers(models / "student-ort", 2, Limits()).start())


def test_a_model_that_takes_long_to_load(models):
    with pytest.raises(OSError, match="it was not ready after"):
        asyncio.run(Workers(models / "student-ort", 2, Limits(start_seconds=0.01)).start())
