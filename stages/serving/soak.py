"""A mixed load on the HTTP service over a real socket, with one of its processes killed on the way."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.measurement.enough import FEWEST
from stages.serving.options import Limits

PATIENCE = 60
# The two ways to run the model, and the options of `intents serve` for each.
KINDS = {"processes": [], "workers": ["--workers", "1"]}


@dataclass(frozen=True)
class Asked:
    """A request's body, and what should come back: a status, and with 200 the labels."""

    body: bytes
    status: int
    labels: tuple[str, ...] = ()


BAD = (
    Asked(b"", 400),
    Asked(b"what is my balance", 400),
    Asked(b'{"text": "\xff\xfe"}', 400),
    Asked(b'{"text": "\\ud800"}', 400),
    Asked(b'{"text": " "}', 400),
    Asked(b'{"text": 5}', 400),
    Asked(b'{"query": "what is my balance"}', 400),
    Asked(b'["what is my balance"]', 400),
    Asked(json.dumps({"text": "a" * (Limits.characters + 1)}).encode(), 413),
    Asked(json.dumps({"texts": ["a"] * (Limits.texts + 1)}).encode(), 413),
)


def mix(queries: Sequence[str], labels: dict[str, str], count: int, seed: int) -> list[Asked]:
    """`count` requests: 85% of one query, 10% of two to eight, 5% bad ones of every kind.

    The queries are taken from `queries` in their order, over and over; `labels` are the right answers.
    """
    rng = random.Random(seed)
    texts = cycle(queries)
    asked = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.05:
            asked.append(rng.choice(BAD))
        elif kind < 0.15:
            several = [next(texts) for _ in range(rng.randint(2, 8))]
            body = json.dumps({"texts": several}).encode()
            asked.append(Asked(body, 200, tuple(labels[text] for text in several)))
        else:
            text = next(texts)
            asked.append(Asked(json.dumps({"text": text}).encode(), 200, (labels[text],)))
    return asked


@contextmanager
def service(folder: Path, *options: str) -> Iterator[int]:
    """The service over `folder` as a process of its own; its port, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        sys.executable,
        "-m",
        "stages.commands",
        "serve",
        "--model",
        str(folder),
        "--port",
        str(port),
        *options,
    ]
    # What it logs is of starting, of the worker that is killed, and of ending.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    get(port, "/health")
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                log.seek(0)
                raise RuntimeError(f"the service over {folder} does not start: {log.read()}")
            yield port
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    return connection.getresponse().read()


def judge(asked: Asked, status: int, content: bytes) -> str:
    """ "right", "wrong", or "lost" (the service's own fault, 5xx)."""
    if status >= 500:
        return "lost"
    if status != asked.status:
        return "wrong"
    try:
        answer = json.loads(content)
        if status == 200:
            predictions = answer.get("predictions", [answer])
            return "right" if tuple(p["label"] for p in predictions) == asked.labels else "wrong"
        return "right" if answer["error"] else "wrong"
    except (ValueError, LookupError, TypeError, AttributeError):
        return "wrong"


def run(port: int, requests: Sequence[Asked], clients: int, kill: bool) -> dict[str, float | None]:
    """Send all `requests`, `clients` at a time over as many connections; halfway, `kill` what runs the model.

    That is a worker, or a process if it has none. Gives how many were answered `right`, `wrong` and `lost`
    (no answer, or 5xx), requests a second, latencies in ms as the clients saw them (p95 and p99 None of fewer
    than FEWEST), and how many processes were `killed`.
    """
    verdicts: Counter[str] = Counter()
    milliseconds: list[float] = []
    waiting = iter(tqdm(requests, "service", unit="request"))
    halfway = threading.Event()
    lock = threading.Lock()

    def client() -> None:
        try:
            ask()
        finally:
            halfway.set()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        while True:
            with lock:
                asked = next(waiting, None)
                if len(milliseconds) >= len(requests) // 2:
                    halfway.set()
            if asked is None:
                return
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", asked.body)
                response = connection.getresponse()
                verdict = judge(asked, response.status, response.read())
            except (OSError, http.client.HTTPException):
                verdict = "lost"
                connection.close()
            with lock:
                milliseconds.append(1000 * (time.perf_counter() - start))
                verdicts[verdict] += 1

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client) for _ in range(clients)]
        if kill:
            halfway.wait()
            health = json.loads(get(port, "/health"))
            os.kill((health["workers"] or health["processes"])[0], signal.SIGKILL)
        for future in running:
            future.result()
    seconds = time.perf_counter() - start
    fewest = {50: 1, 95: FEWEST, 99: FEWEST}
    percentiles = {
        f"p{q}_ms": round(float(np.quantile(milliseconds, q / 100)), 4) if len(milliseconds) >= few else None
        for q, few in fewest.items()
    }
    return {
        "requests": len(requests),
        **{verdict: verdicts[verdict] for verdict in ("right", "wrong", "lost")},
        "killed": int(kill),
        "requests_per_second": round(len(requests) / seconds, 4),
        **percentiles,
    }
