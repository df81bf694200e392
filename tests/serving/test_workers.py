import asyncio
import os
import signal

import pytest

from stages import runtime
from stages.serving import workers
from stages.serving.workers import Workers, WorkersFailed

TEXT = "my balance"


async def here():
    return False


def serve(folder, use):
    """The result of `use(pool)`, of a pool of one worker."""

    async def main():
        pool = Workers(folder, 1, waiting=10)
        await pool.start()
        try:
            return await use(pool)
        finally:
            await pool.stop()

    return asyncio.run(main())


def pid(pool):
    (worker,) = pool.ready.values()
    return worker.process.pid


def test_a_worker_that_hangs_is_replaced(models, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    folder = models / "student-ort"

    async def use(pool):
        hung = pid(pool)
        os.kill(hung, signal.SIGSTOP)
        answers = await pool.predict([TEXT, TEXT], here)
        assert pool.restarts == 1 and pid(pool) != hung
        return answers

    assert serve(folder, use) == runtime.load(folder).predict([TEXT]) * 2


def test_a_text_that_kills_its_workers_is_given_up(models, monkeypatch):
    """And the next one is answered."""
    monkeypatch.setattr(workers, "ATTEMPTS", 1)
    folder = models / "student-ort"

    async def use(pool):
        os.kill(pid(pool), signal.SIGKILL)
        with pytest.raises(WorkersFailed):
            await pool.predict([TEXT], here)
        return await pool.predict([TEXT], here)

    assert serve(folder, use) == runtime.load(folder).predict([TEXT])


def test_a_model_that_does_not_load(models):
    (models / "student-ort" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(OSError, match="a worker could not load"):
        asyncio.run(Workers(models / "student-ort", 2, waiting=1).start())
