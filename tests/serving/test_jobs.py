import asyncio

import pytest

from stages.serving import jobs
from stages.serving.jobs import Abandoned, Here, QueueFull
from stages.serving.model import Answer


class Model:
    """Answers a text with itself, and notes the order; it fails on "bad"."""

    def __init__(self, folder):
        self.asked = []

    def answer(self, text):
        self.asked.append(text)
        if text == "bad":
            raise ZeroDivisionError
        return Answer(text, 1.0)


def here():
    return False


def left():
    return True


def served(monkeypatch, use, limit=3):
    monkeypatch.setattr(jobs, "Model", Model)
    monkeypatch.setattr(jobs, "LONG", 0.0)
    waiting = []

    async def main():
        serving = Here("", limit, waiting.append)
        await serving.start()
        return await use(serving), serving.model.asked, waiting

    return asyncio.run(main())


def test_in_the_order_they_came(monkeypatch):
    async def use(serving):
        return await asyncio.gather(serving.ask(["a", "b"], here), serving.ask(["c"], here))

    answers, asked, waiting = served(monkeypatch, use)
    assert answers == [[Answer("a", 1.0), Answer("b", 1.0)], [Answer("c", 1.0)]]
    assert asked == ["a", "b", "c"] and max(waiting) == 2 and waiting[-1] == 0


def test_between_two_texts_others_are_refused_or_go_on(monkeypatch):
    async def use(serving):
        first = asyncio.create_task(serving.ask(["a", "b", "c"], here))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await serving.ask(["d"], here)
        await first
        return await serving.ask(["e"], here)

    _, asked, _ = served(monkeypatch, use)
    assert asked == ["a", "b", "c", "e"]


@pytest.mark.parametrize(("seconds", "between"), [(0.0, {0, 1, 2, 3}), (60.0, {0, 3})])
def test_texts_are_answered_for_a_slice_of_time_on_end(seconds, between, monkeypatch):
    monkeypatch.setattr(jobs, "SLICE", seconds)

    async def use(serving):
        asking = asyncio.create_task(serving.ask(["a", "b", "c"], here))
        seen = set()
        while not asking.done():
            seen.add(len(serving.model.asked))
            await asyncio.sleep(0)
        return seen

    assert served(monkeypatch, use)[0] == between


def test_who_has_left_or_stopped_waiting_is_not_answered(monkeypatch):
    async def use(serving):
        gone = asyncio.create_task(serving.ask(["a"], left))
        late = asyncio.create_task(serving.ask(["b"], here))
        await asyncio.sleep(0)
        late.cancel()
        await serving.ask(["c"], here)
        with pytest.raises(Abandoned):
            await gone

    _, asked, _ = served(monkeypatch, use)
    assert asked == ["c"]


def test_a_text_that_the_model_fails_on(monkeypatch):
    async def use(serving):
        with pytest.raises(ZeroDivisionError):
            await serving.ask(["a", "bad"], here)
        return await serving.ask(["c"], here)

    assert served(monkeypatch, use)[0] == [Answer("c", 1.0)]
