"""The HTTP service over one model: /predict, /health, /metrics. An ASGI application for one process."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stages.serving import body
from stages.serving.body import BadRequest, BodyLate, Receive
from stages.serving.cache import ResponseCache
from stages.serving.jobs import Abandoned, Answering, Here, QueueFull, Result, TooLate
from stages.serving.metrics import Metrics
from stages.serving.model import Answer, out_of_scope_label
from stages.serving.options import Options
from stages.serving.workers import Workers, WorkersFailed

Headers = list[tuple[bytes, bytes]]
log = logging.getLogger(__name__)
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
label_in_json = cache(encode)


def in_json(answers: Sequence[Answer], several: bool) -> str:
    predictions = [
        f'{{"label":{label_in_json(answer.label)},"score":{round(answer.score, 4)}}}' for answer in answers
    ]
    return f'{{"predictions":[{",".join(predictions)}]}}' if several else predictions[0]


async def not_served(request: Request, error: Exception) -> Response:
    """The answer to a path or a method that is not served."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        line = f"{request.method} is not served here: send {headers['Allow']}"
    else:
        line = "nothing is served here: there are POST /predict, GET /health and GET /metrics"
    return JSONResponse({"error": line}, error.status_code, headers)


async def failed(request: Request, error: Exception) -> Response:
    """The answer to a request that met a fault of ours; its traceback is logged."""
    return JSONResponse({"error": "the service failed: its log says how"}, 500)


def has_left(receive: Receive) -> bool:
    """Whether the client has closed the connection, asked without waiting."""
    message = receive()
    try:
        message.send(None)  # type: ignore[attr-defined]
    except StopIteration as end:
        return end.value["type"] == "http.disconnect"
    message.close()  # type: ignore[attr-defined]
    return False


class Service:
    """Requests to answers: the cache first, then the model; counted in Prometheus's format.

    `everyone` gives what /health says of all processes, and `metrics` counts for them.
    """

    def __init__(self, options: Options, everyone: Callable[[], dict] = dict):
        self.options, self.limits, self.everyone = options, options.limits, everyone
        self.metrics = Metrics(out_of_scope_label(options.model))
        self.cache: ResponseCache[Answer] | None = None
        if options.cache:
            self.cache = ResponseCache(options.model, options.cache)
        waiting = self.metrics.waiting.set
        self.answering: Answering
        if options.workers:
            self.answering = Workers(
                options.model,
                options.workers,
                self.limits,
                waiting,
                self.metrics.worker_restarts.inc,
            )
        else:
            self.answering = Here(options.model, self.limits, waiting)

    def worker_pids(self) -> list[int]:
        if isinstance(self.answering, Workers):
            return [worker.child.pid for worker in self.answering.ready]
        return []

    def ask(
        self, texts: list[str], then: Callable[[Result], None], abandoned: Callable[[], bool] = lambda: False
    ) -> None:
        """Have `texts` answered by the cache or the model; `then` gets the answers, or what went wrong."""
        if self.cache is None:
            self.run_model(texts, then, abandoned)
            return
        cache = self.cache
        keys = [cache.key(text) for text in texts]
        answers = {key: answer for key in keys if (answer := cache.get(key)) is not None}
        hits = sum(key in answers for key in keys)
        self.metrics.lookups.labels("hit").inc(hits)
        if hits == len(keys):
            then([answers[key] for key in keys])
            return
        self.metrics.lookups.labels("miss").inc(len(keys) - hits)
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in answers}

        def keep(result: Result) -> None:
            if isinstance(result, list):
                for key, answer in zip(unknown, result, strict=True):
                    cache.put(key, answer)
                    answers[key] = answer
                result = [answers[key] for key in keys]
            then(result)

        self.run_model(list(unknown.values()), keep, abandoned)

    def run_model(
        self, texts: list[str], then: Callable[[Result], None], abandoned: Callable[[], bool]
    ) -> None:
        def ran(result: Result) -> None:
            if isinstance(result, list):
                self.metrics.ran(result)
            then(result)

        self.answering.ask(texts, ran, abandoned)

    def answer(self, result: Result, several: bool, start: float) -> tuple[int, Headers, bytes]:
        """Status, headers and body of what a request gets that came at `start`; and count it."""
        status, answers = 200, []
        headers: Headers = []
        if isinstance(result, list):
            answers, content = result, in_json(result, several)
        else:
            status, headers, line = self.refusal(result)
            content = encode({"error": line})
        self.metrics.answered(status, time.perf_counter() - start, answers)
        out = content.encode()
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(out))]
        return status, headers, out

    def refusal(self, error: BaseException) -> tuple[int, Headers, str]:
        """Status, headers and a line that says what to do, for a request without an answer."""
        limits = self.limits
        match error:
            case BadRequest():
                return error.status, [], str(error)
            case BodyLate():
                return 408, [], f"the body was not all there after {limits.body_seconds:g} s: send it at once"
            case QueueFull():
                return 503, [(b"retry-after", b"1")], "too many requests are waiting: try again in a second"
            case TooLate():
                line = f"there was no answer after {limits.answer_seconds:g} s: try again"
                return 503, [(b"retry-after", b"1")], line
            case WorkersFailed():
                return 500, [], "the workers that took up this request died or hung"
            case Abandoned():
                return 499, [], "the client has left"
        log.error("a request failed", exc_info=error)
        return 500, [], "the service failed: its log says how"

    async def predict(self, scope, receive: Receive, send) -> None:
        """Answer POST /predict, in ASGI without a framework."""
        start = time.perf_counter()
        answered = asyncio.get_running_loop().create_future()

        def then(result: Result) -> None:
            if not answered.done():
                answered.set_result(result)

        several = False
        try:
            whole = await body.read(receive, scope["headers"], self.limits)
            texts, several = body.texts_in(whole, self.limits)
            self.ask(texts, then, partial(has_left, receive))
            result = await answered
        except Exception as error:
            result = error
        status, headers, out = self.answer(result, several, start)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": out})

    async def health(self, request: Request) -> Response:
        """200 while a process, or a worker, can answer; with the ids of all of them."""
        everyone = self.everyone() or {"processes": [os.getpid()], "workers": self.worker_pids()}
        able = everyone["workers"] if self.options.workers else everyone["processes"]
        return JSONResponse({"model": self.options.model.name} | everyone, 200 if able else 503)

    async def show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def app(self, pages: Sequence[BaseRoute] = ()):
        """The application, which answers on the routes of some `pages` too."""

        async def elsewhere(request: Request) -> Response:
            raise AssertionError("POST /predict is answered before there is routing")

        routes: list[BaseRoute] = [
            Route(path + slash, endpoint, methods=[method])
            for path, endpoint, method in (
                ("/predict", elsewhere, "POST"),
                ("/health", self.health, "GET"),
                ("/metrics", self.show_metrics, "GET"),
            )
            for slash in ("", "/")
        ]
        routes += pages
        handlers: dict = {HTTPException: not_served, Exception: failed}
        others = Starlette(routes=routes, exception_handlers=handlers)
        others.router.redirect_slashes = False  # behind a proxy it would redirect to the address of this host

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await self.answering.stop()
                self.metrics.count()
                await send({"type": "lifespan.shutdown.complete"})
            elif scope["path"] in ("/predict", "/predict/") and scope["method"] == "POST":
                await self.predict(scope, receive, send)
            else:
                await others(scope, receive, send)

        return app
