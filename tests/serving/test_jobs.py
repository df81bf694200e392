import asyncio
import time

import pytest
from asking import ask, here

from stages.serving import jobs
from stages.serving.jobs import Abandoned, Here, QueueFull, TooLate
from stages.serving.model import Answer
from stages.serving.options import Limits


class Panic(BaseException):
    """As pyo3 raises one."""


class Model:
    """Answers a text with itself, and notes the order; it fails on "bad"."""

    def __init__(self, folder):
        self.asked = []

    def run(self, text):
        self.asked.append(text)
        if text == "bad":
            raise ZeroDivisionError
        if text == "panic":
            raise Panic
        return text

    def answers(self, runs):
        if "worse" in runs:
            raise OverflowError
        return [Answer(text, 1.0) for text in runs]


def left():
    return True


def served(monkeypatch, use, **limits):
    monkeypatch.setattr(jobs, "Model", Model)
    monkeypatch.setattr(jobs, "LONG", 0.0)
    waiting = []

    async def main():
        serving = Here("", Limits(**{"queue": 3} | limits), waiting.append)
        await serving.start()
        return await use(serving), serving.model.asked, waiting

    return asyncio.run(main())


def test_in_the_order_they_came(monkeypatch):
    monkeypatch.setattr(jobs, "SLICE", 0.0)

    async def use(serving):
        return await asyncio.gather(ask(serving, ["a", "b"]), ask(serving, ["c"]))

    answers, asked, waiting = served(monkeypatch, use)
    assert answers == [[Answer("a", 1.0), Answer("b", 1.0)], [Answer("c", 1.0)]]
    assert asked == ["a", "b", "c"] and max(waiting) == 2 and waiting[-1] == 0


def test_between_two_texts_others_are_refused_or_go_on(monkeypatch):
    async def use(serving):
        first = asyncio.create_task(ask(serving, ["a", "b", "c"]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await ask(serving, ["d"])
        await first
        return await ask(serving, ["e"])

    _, asked, _ = served(monkeypatch, use)
    assert asked == ["a", "b", "c", "e"]


@pytest.mark.parametrize(("seconds", "between"), [(0.0, {0, 1, 2, 3}), (60.0, {0, 3})])
def test_texts_are_answered_for_a_slice_of_time_on_end(seconds, between, monkeypatch):
    monkeypatch.setattr(jobs, "SLICE", seconds)

    async def use(serving):
        asking = asyncio.create_task(ask(serving, ["a", "b", "c"]))
        seen = set()
        while not asking.done():
            seen.add(len(serving.model.asked))
            await asyncio.sleep(0)
        return seen

    assert served(monkeypatch, use)[0] == between


def test_who_has_left_is_not_answered(monkeypatch):
    async def use(serving):
        gone = asyncio.create_task(ask(serving, ["a"], left))
        over = serving.ask(["b"], [].append, here)
        over.end(Abandoned())
        await ask(serving, ["c"])
        with pytest.raises(Abandoned):
            await gone

    _, asked, _ = served(monkeypatch, use)
    assert asked == ["c"]


def test_what_is_late_is_not_answered(monkeypatch):
    async def use(serving):
        late = asyncio.create_task(ask(serving, ["a"]))
        await asyncio.sleep(0)
        time.sleep(0.1)  # as the model would, with other texts
        new = asyncio.create_task(ask(serving, ["b"]))
        with pytest.raises(TooLate):
            await late
        await new

    _, asked, _ = served(monkeypatch, use, answer_seconds=0.05)
    assert asked == ["b"]


def test_a_fault_where_the_answer_goes_holds_up_no_other(monkeypatch):
    async def use(serving):
        serving.ask(["a"], lambda result: 1 / 0, here)
        return await ask(serving, ["b"])

    assert served(monkeypatch, use)[0] == [Answer("b", 1.0)]


def test_answers_that_the_model_fails_on(monkeypatch):
    async def use(serving):
        results = []
        requests = [serving.ask([text], results.append, here) for text in ("a", "worse")]
        with pytest.raises(OverflowError):
            await ask(serving, ["b"])
        assert all(request.over for request in requests)
        return [type(result) for result in results], await ask(serving, ["c"])

    assert served(monkeypatch, use)[0] == ([OverflowError] * 2, [Answer("c", 1.0)])


def test_a_text_that_the_model_fails_on(monkeypatch):
    async def use(serving):
        with pytest.raises(ZeroDivisionError):
            await ask(serving, ["a", "bad"])
        return await ask(serving, ["c"])

    assert served(monkeypatch, use)[0] == [Answer("c", 1.0)]


def test_a_text_that_panics(monkeypatch):
    async def use(serving):
        results = []
        for text in ("a", "panic", "b"):
            serving.ask([text], results.append, here)
        await ask(serving, ["c"])
        return results

    first, second, third = served(monkeypatch, use, queue=4)[0]
    assert isinstance(first, Panic) and [second, third] == [[Answer("a", 1.0)], [Answer("b", 1.0)]]


def test_a_client_that_cannot_be_asked_whether_it_is_there(monkeypatch):
    async def use(serving):
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        results = []
        serving.ask(["a"], results.append, here)
        serving.ask(["b"], results.append, lambda: 1 / 0)
        return [*await ask(serving, ["c"]), *results]

    assert served(monkeypatch, use)[0] == [Answer("c", 1.0), [Answer("a", 1.0)]]
