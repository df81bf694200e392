"""Serving scenarios under load: worker processes, one a core, that all serve the same at the same time."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pandas as pd
from tqdm import tqdm

from stages.core.settings import LoadTest, Scenario

FULL = 0.0  # the load of a closed loop, which offers no rate of its own
NO_MODEL = "no model"  # the scenario of answering at once, which shows the machine's own delays
NO_MODEL_RATE = 100.0  # a second


def answerer(folder: Path, scenario: Scenario, size: int) -> Callable[[str], bool]:
    """A function that answers one query as `scenario` says, and tells whether its cache, of `size`, knew."""
    from stages import runtime
    from stages.serving.cache import ResponseCache

    classifier = runtime.load(folder, threads=1, length=scenario.length)
    cache: ResponseCache[runtime.Prediction] = ResponseCache(folder, size)

    def answer(text: str) -> bool:
        classifier.predict([text])
        return False

    def answer_cached(text: str) -> bool:
        key = cache.key(text)
        known = cache.get(key) is not None
        if not known:
            cache.put(key, classifier.predict([text])[0])
        return known

    return answer_cached if scenario.cached else answer


def closed_loop(
    answer: Callable[[str], bool], texts: Iterator[str], seconds: float
) -> list[tuple[float, bool]]:
    """Ask again as soon as there is an answer, for `seconds`: of each query, milliseconds and hit."""
    answers = []
    start = before = time.perf_counter()
    while before - start < seconds:
        known = answer(next(texts))
        now = time.perf_counter()
        answers.append((1000 * (now - before), known))
        before = now
    return answers


def open_loop(
    answer: Callable[[str], bool], texts: Iterator[str], rate: float, seconds: float, rng: random.Random
) -> list[tuple[float, bool]]:
    """Queries that arrive at random, `rate` a second (Poisson), for `seconds`, and wait their turn.

    Milliseconds are from a query's arrival, not from when it is taken up.
    """
    answers = []
    start = time.perf_counter()
    arrival = rng.expovariate(rate)
    while arrival < seconds:
        if (early := start + arrival - time.perf_counter()) > 0:  # to sleep for 0 s takes 60 us
            time.sleep(early)
        known = answer(next(texts))
        answers.append((1000 * (time.perf_counter() - start - arrival), known))
        arrival += rng.expovariate(rate)
    return answers


def run(
    folders: Mapping[str, Path], queries: Sequence[str], workers: int, params: LoadTest, seed: int
) -> pd.DataFrame:
    """Put each scenario, its model in `folders`, under load on `workers` processes at once.

    In a round, each scenario in turn, in an order shuffled by `seed`, serves a closed loop, and then open
    loops at each of the loads, fractions of the rate that this worker has just reached; last comes NO_MODEL.
    `queries` is the traffic, of which each worker takes its own. Gives a row for each query: `worker`,
    `round`, `scenario`, `load` (FULL, for a closed loop), `ms`, `hit`.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, initializer=_share, initargs=(barrier,)) as pool:
        running = [
            pool.submit(_work, number, folders, queries[number::workers], params, seed)
            for number in range(workers)
        ]
        errors = [future.exception() for future in running]
        for error in errors:
            if not isinstance(error, BrokenBarrierError | None):  # which the others have of it
                raise error
        return pd.concat([future.result() for future in running], ignore_index=True)


_barrier: Barrier


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _work(
    number: int, folders: Mapping[str, Path], queries: Sequence[str], params: LoadTest, seed: int
) -> pd.DataFrame:
    try:
        if hasattr(os, "sched_setaffinity"):  # not on macOS
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[number % len(cores)]})
        answers = {
            name: answerer(folders[name], scenario, params.cache)
            for name, scenario in params.scenarios.items()
        }
        texts = {name: cycle(queries) for name in answers}
        for name, answer in answers.items():  # a cache as it is after a while
            for _ in range(4 * params.cache if params.scenarios[name].cached else 5):
                answer(next(texts[name]))
        order = random.Random(seed)
        arrivals = random.Random(f"{seed}/{number}")
        parts = []

        def keep(taken: list[tuple[float, bool]], **where) -> None:
            table = pd.DataFrame(taken, columns=["ms", "hit"]).astype({"ms": float, "hit": bool})
            parts.append(table.assign(worker=number, **where))

        for turn in tqdm(range(params.rounds), "load", unit="round", disable=number > 0):
            for name in order.sample(list(answers), len(answers)):
                _barrier.wait()
                taken = closed_loop(answers[name], texts[name], params.seconds)
                keep(taken, round=turn, scenario=name, load=FULL)
                speed = 1000 * len(taken) / sum(ms for ms, _ in taken)
                for load in params.loads:
                    _barrier.wait()
                    taken = open_loop(answers[name], texts[name], load * speed, params.seconds, arrivals)
                    keep(taken, round=turn, scenario=name, load=load)
            _barrier.wait()
            taken = open_loop(lambda text: False, cycle([""]), NO_MODEL_RATE, params.seconds, arrivals)
            keep(taken, round=turn, scenario=NO_MODEL, load=1.0)
        return pd.concat(parts, ignore_index=True)
    except BaseException:
        _barrier.abort()  # or the others would wait for this one
        raise
