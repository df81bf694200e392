"""The HTTP service over one model: /predict, /health, /metrics."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stages.runtime import Prediction
from stages.serving.cache import ResponseCache
from stages.serving.workers import Abandoned, QueueFull, Workers, WorkersFailed

MOST_BYTES = 2**20
MOST_CHARACTERS = 2000
MOST_TEXTS = 64
BODY_SECONDS = 10
ANSWER_SECONDS = 30


class BadRequest(Exception):
    """The client's fault: a status of 4xx, and what to do."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise BadRequest(400, "an object of the body has a key twice: send each once")
    return content


async def texts_of(request: Request) -> tuple[list[str], bool]:
    """The texts in the body, {"text": ...} or {"texts": [...]}, and whether it was the latter."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise BadRequest(413, f"the body is longer than {MOST_BYTES} bytes: send fewer texts")
    except TimeoutError:
        raise BadRequest(408, f"the body was not all there after {BODY_SECONDS} s: send it at once") from None
    if not body and "upgrade" in request.headers:  # uvicorn reads no further (its issue 2722)
        raise BadRequest(
            400,
            "the body of a request to upgrade is not read: send HTTP/1.1 without Upgrade (Java's HTTP_1_1)",
        )
    try:
        content = json.loads(body.decode("utf-8"), object_pairs_hook=_each_key_once)
    except UnicodeDecodeError as error:
        raise BadRequest(400, f"the body is not UTF-8 ({error.reason} at byte {error.start + 1})") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(400, f'the body is not JSON ({error}): send {{"text": "..."}}') from None
    if not isinstance(content, dict) or len(content.keys() & {"text", "texts"}) != 1:
        raise BadRequest(400, 'send an object with one of "text", a string, and "texts", a list of strings')
    several = "texts" in content
    texts = content["texts"] if several else [content["text"]]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequest(400, '"text" should be a string, and "texts" a list of strings')
    if not texts:
        raise BadRequest(400, '"texts" is empty: send at least one')
    if len(texts) > MOST_TEXTS:
        raise BadRequest(413, f'"texts" has {len(texts)} texts: send at most {MOST_TEXTS} at a time')
    for number, text in enumerate(texts, 1):
        which = f"text {number}" if several else "the text"
        if not text.strip():
            raise BadRequest(400, f"{which} is empty: send at least one word")
        if len(text) > MOST_CHARACTERS:
            raise BadRequest(413, f"{which} has {len(text)} characters: send at most {MOST_CHARACTERS}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"{which} has half of a surrogate pair, its character {error.start + 1}"
            raise BadRequest(400, f"{half}: send whole characters") from None
    return texts, several


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


class Service:
    """Requests to answers: the cache first, then the workers; counted in Prometheus's format."""

    def __init__(self, folder: Path, workers: int, waiting: int, cache: int):
        self.folder = folder
        self.workers = Workers(folder, workers, waiting)
        self.cache = ResponseCache(folder, cache) if cache else None
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Answers to /predict", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "request_seconds",
            "From the head of a request to its answer",
            buckets=[0.0005 * 2**i for i in range(14)],
            registry=self.registry,
        )
        self.lookups = Counter("cache_lookups", "Texts looked up", ["result"], registry=self.registry)
        for name, text, value in (
            ("texts_waiting", "Not taken up yet", lambda: self.workers.queue.qsize()),
            ("workers_ready", "Workers ready", lambda: len(self.workers.ready)),
            ("worker_restarts", "Workers that died or hung", lambda: self.workers.restarts),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    async def answer(self, texts: list[str], request: Request) -> list[Prediction]:
        if self.cache is None:
            return await self.workers.predict(texts, request.is_disconnected)
        keys = [self.cache.key(text) for text in texts]
        answers = {key: answer for key in keys if (answer := self.cache.get(key)) is not None}
        self.lookups.labels("hit").inc(sum(key in answers for key in keys))
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in answers}
        if unknown:
            self.lookups.labels("miss").inc(sum(key in unknown for key in keys))
            predictions = await self.workers.predict(list(unknown.values()), request.is_disconnected)
            for key, prediction in zip(unknown, predictions, strict=True):
                self.cache.put(key, prediction)
                answers[key] = prediction
        return [answers[key] for key in keys]

    async def predict(self, request: Request) -> Response:
        start = time.perf_counter()
        status, headers = 200, {}
        try:
            texts, several = await texts_of(request)
            async with asyncio.timeout(ANSWER_SECONDS):
                predictions = await self.answer(texts, request)
            answers = [{"label": answer.label, "score": round(answer.score, 4)} for answer in predictions]
            content: dict = {"predictions": answers} if several else answers[0]
        except BadRequest as error:
            status, content = error.status, {"error": str(error)}
        except QueueFull:
            status, content = 503, {"error": "too many requests are waiting: try again in a second"}
            headers = {"Retry-After": "1"}
        except TimeoutError:
            status, content = 503, {"error": f"no worker had answered after {ANSWER_SECONDS} s"}
        except WorkersFailed:
            status, content = 500, {"error": "the workers that took up this request died or hung"}
        except (ClientDisconnect, Abandoned):
            status, content = 499, {"error": "the client has left"}
        self.requests.labels(str(status)).inc()
        self.seconds.observe(time.perf_counter() - start)
        return JSONResponse(content, status, headers)

    async def health(self, request: Request) -> Response:
        """200 while a worker is ready."""
        pids = [worker.process.pid for worker in self.workers.ready.values()]
        return JSONResponse({"model": self.folder.name, "workers": pids}, 200 if pids else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

    def app(self, pages: Sequence[BaseRoute] = ()) -> Starlette:
        """The application, which answers on the routes of some `pages` too."""

        @asynccontextmanager
        async def lifespan(app):
            await self.workers.start()
            yield
            await self.workers.stop()

        routes: list[BaseRoute] = [
            Route(path + slash, endpoint, methods=[method])
            for path, endpoint, method in (
                ("/predict", self.predict, "POST"),
                ("/health", self.health, "GET"),
                ("/metrics", self.metrics, "GET"),
            )
            for slash in ("", "/")
        ]
        routes += pages
        handlers: dict = {HTTPException: not_served, Exception: failed}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
        app.router.redirect_slashes = False  # behind a proxy it would redirect to the address of this host
        return app
