"""The service as its clients see it: a process of its own, over a socket."""

import asyncio
import http.client
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import runtime
from stages.serving import soak, traffic
from stages.serving.service import MOST_BYTES, MOST_CHARACTERS, MOST_TEXTS, Service

QUERIES = [f"{verb} w{i} {rest}" for i in range(20, 50) for verb in ("send", "rent") for rest in ("car", "")]


def post(port, body, path="/predict", method="POST", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return response.status, json.loads(response.read() or b"null")


def ask(port, text):
    return post(port, json.dumps({"text": text}).encode())


def metric(port, name):
    text = soak.get(port, "/metrics").decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def workers(port):
    return json.loads(soak.get(port, "/health"))["workers"]


def until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def model(exported):
    return exported / "student-ort"


@pytest.fixture(scope="module")
def expected(model):
    classifier = runtime.load(model)
    return {query: classifier.predict([query])[0] for query in QUERIES}


@pytest.fixture(scope="module")
def port(model):
    with soak.service(model, "--workers", "2") as port:
        yield port


def test_one_and_several(port, expected):
    for query in QUERIES[:3]:
        status, answer = ask(port, query)
        assert status == 200
        assert answer == {"label": expected[query].label, "score": round(expected[query].score, 4)}
    status, answer = post(port, json.dumps({"texts": QUERIES[:5]}).encode())
    assert status == 200
    assert [p["label"] for p in answer["predictions"]] == [expected[query].label for query in QUERIES[:5]]


BAD = {
    "nothing": (b"", 400, "not JSON"),
    "no JSON": (b"my balance", 400, "not JSON"),
    "deep": (b"[" * 100_000, 400, "not JSON"),
    "not UTF-8": (b'{"text": "\xe9t\xe9"}', 400, "not UTF-8"),
    "half a character": (
        b'{"text": "yes \\ud83d"}',
        400,
        "the text has half of a surrogate pair, its character 5",
    ),
    "another half": (
        b'{"texts": ["yes", "\\ude97"]}',
        400,
        "text 2 has half of a surrogate pair, its character 1",
    ),
    "halves the wrong way round": (b'{"text": "\\ude97\\ud83d"}', 400, "surrogate"),
    "half a character in UTF-8": (b'{"text": "\xed\xa0\xbd"}', 400, "byte 11"),
    "UTF-16": ('{"text": "my balance"}'.encode("utf-16"), 400, "not UTF-8"),
    "a text twice": (b'{"text": "my balance", "text": "rent a car"}', 400, "twice"),
    "texts twice": (b'{"texts": ["my balance"], "texts": ["rent a car"]}', 400, "twice"),
    "a form": (b"text=my+balance", 400, "not JSON"),
    "a digit too many": (b'{"text": ' + b"1" * 5000 + b"}", 400, "not JSON"),
    "empty": (b'{"text": ""}', 400, "empty"),
    "blank": (b'{"texts": ["my balance", " \\n"]}', 400, "empty"),
    "no texts": (b'{"texts": []}', 400, "empty"),
    "a number": (b'{"text": 5}', 400, "string"),
    "a list of numbers": (b'{"texts": [5]}', 400, "string"),
    "a string for a list": (b'{"texts": "my balance"}', 400, "string"),
    "both": (b'{"text": "a", "texts": ["a"]}', 400, "one of"),
    "neither": (b"{}", 400, "one of"),
    "a list": (b'["my balance"]', 400, "one of"),
    "null": (b"null", 400, "one of"),
    "too long": (json.dumps({"text": "a" * (MOST_CHARACTERS + 1)}).encode(), 413, "characters"),
    "too many": (json.dumps({"texts": ["a"] * (MOST_TEXTS + 1)}).encode(), 413, "texts"),
    "too large": (b" " * (MOST_BYTES + 1), 413, "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(port, name):
    body, status, word = BAD[name]
    before = metric(port, 'requests_total{status="200"}')
    found, answer = post(port, body)
    assert found == status
    assert word in answer["error"] and "\n" not in answer["error"]
    assert metric(port, 'requests_total{status="200"}') == before


def test_just_short_enough(port):
    assert ask(port, "a" * MOST_CHARACTERS)[0] == 200
    assert post(port, json.dumps({"texts": ["my car"] * MOST_TEXTS}).encode())[0] == 200


def test_odd_texts(port):
    for text in ("\x00", "🚗 " * 500, "\u202e", "é" * 100):
        assert ask(port, text)[0] == 200


def characters():
    """Of every kind, halves of surrogate pairs among them."""
    return st.characters(exclude_categories=[]) | st.sampled_from("\ud83d\ude97 🚗\t\0[")


def values():
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(characters())
    return st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
    )


def asked():
    """A body that should be answered."""
    texts = st.text(min_size=1).filter(str.strip)
    contents = st.fixed_dictionaries({"text": texts}) | st.fixed_dictionaries(
        {"texts": st.lists(texts, min_size=1, max_size=5)}
    )
    return st.builds(lambda content, ascii: json.dumps(content, ensure_ascii=ascii), contents, st.booleans())


@st.composite
def damaged(draw):
    """A body that should be answered, with some of its bytes replaced."""
    body = draw(asked()).encode()
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(body))] * 2)))
    return body[:start] + draw(st.binary(max_size=3)) + body[end:]


@st.composite
def of_the_form(draw):
    """JSON whose text or texts are anything."""
    return json.dumps({draw(st.sampled_from(["text", "texts"])): draw(values())}).encode()


@pytest.fixture(scope="module")
def classifier(model):
    return runtime.load(model)


def check(content, answer, classifier):
    """`answer` has the answers to the texts of `content`, each of them and in their order."""
    several = "texts" in content
    labels = [
        classifier.predict([text])[0].label for text in (content["texts"] if several else [content["text"]])
    ]
    assert [p["label"] for p in (answer["predictions"] if several else [answer])] == labels


@settings(deadline=None, max_examples=100)
@given(body=asked())
def test_every_text_has_its_answer(port, classifier, body):
    status, answer = post(port, body.encode())
    assert status == 200
    check(json.loads(body), answer, classifier)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary() | damaged() | of_the_form())
def test_whatever_is_sent_is_answered_or_refused(port, classifier, body):
    status, answer = post(port, body)
    if status == 200:
        check(json.loads(body.decode()), answer, classifier)
    else:
        assert status in (400, 413)
        assert set(answer) == {"error"} and len(answer["error"].splitlines()) == 1


def get(port, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/predict", 405, {"POST"}),
        ("GET", "/predict/", 405, {"POST"}),
        ("DELETE", "/predict?text=a", 405, {"POST"}),
        ("OPTIONS", "/predict", 405, {"POST"}),
        ("POST", "/health", 405, {"GET", "HEAD"}),
        ("POST", "/metrics/", 405, {"GET", "HEAD"}),
        ("GET", "/nowhere", 404, None),
        ("POST", "/nowhere/", 404, None),
        ("POST", "//predict", 404, None),
        ("POST", "/predict//", 404, None),
        ("POST", "/predict/more", 404, None),
        ("POST", "/Predict", 404, None),
        ("GET", "/caf%C3%A9%FF", 404, None),
        ("GET", "/", 404, None),
    ],
)
def test_what_is_not_there(port, method, path, status, allow):
    response, content = get(port, path, method)
    assert response.status == status
    assert response.headers["Content-Type"] == "application/json"
    assert list(json.loads(content)) == ["error"]
    allowed = response.headers["Allow"]
    assert (set(allowed.split(", ")) if allowed else None) == allow


def test_head(port):
    for path, status in (("/health", 200), ("/predict", 405), ("/nowhere", 404)):
        response, content = get(port, path, "HEAD")
        assert (response.status, content) == (status, b"")


@pytest.mark.parametrize(
    "path", ["/predict/", "/predict?source=app", "/predict/?", "http://inner:1/predict/"]
)
def test_other_spellings_of_an_address(port, expected, path):
    """Behind a proxy, a redirect would lead to the inner host."""
    status, answer = post(port, json.dumps({"text": QUERIES[0]}), path, headers={"Host": "inner"})
    assert (status, answer["label"]) == (200, expected[QUERIES[0]].label)


def test_health_and_metrics_with_a_slash(port):
    assert json.loads(get(port, "/health/")[1])["workers"] == workers(port)
    assert b"requests_total" in get(port, "/metrics/")[1]


def test_a_request_to_upgrade(port):
    """As Java's HttpClient sends by default."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": ""}
    status, answer = post(port, json.dumps({"text": QUERIES[0]}), headers=headers)
    assert status == 400 and "without Upgrade" in answer["error"]


def test_a_fault_of_the_service_is_json_too(model):
    """As its workers were never started."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b'{"text": "my balance"}'}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    with pytest.raises(AttributeError):
        asyncio.run(Service(model, 1, 1, 0).app()(scope, receive, send))
    start, body = sent
    assert start["status"] == 500
    assert list(json.loads(body["body"])) == ["error"]


def test_a_client_that_leaves(port):
    """Half a request, and gone: the others are answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b'{"text": ')
    connection.close()
    assert ask(port, "my balance")[0] == 200


def test_a_mixed_load_with_a_worker_killed(model, expected):
    labels = {query: prediction.label for query, prediction in expected.items()}
    requests = soak.mix(traffic.draw(QUERIES, 1.0, 5000, seed=0), labels, 3000, seed=0)
    with soak.service(model, "--workers", "2", "--cache", "20") as port:
        before = workers(port)
        found = soak.run(port, requests, clients=8, kill=True)
        assert (found["right"], found["wrong"], found["lost"]) == (3000, 0, 0)
        until(lambda: len(workers(port)) == 2)
        assert workers(port) != before
        assert metric(port, "worker_restarts") == 1
        lookups = [metric(port, f'cache_lookups_total{{result="{kind}"}}') for kind in ("hit", "miss")]
        assert min(lookups) > 100


@contextmanager
def stopped(model, *options):
    """A service whose only worker stands still, and its clients."""
    with soak.service(model, "--workers", "1", *options) as port, ThreadPoolExecutor(8) as clients:
        (worker,) = workers(port)
        os.kill(worker, signal.SIGSTOP)
        yield port, worker, clients


def test_a_request_outlives_its_worker(model, expected):
    with stopped(model) as (port, worker, clients):
        answer = clients.submit(ask, port, QUERIES[0])
        until(lambda: metric(port, "texts_waiting") == 0)
        time.sleep(0.2)
        os.kill(worker, signal.SIGKILL)
        assert answer.result()[1]["label"] == expected[QUERIES[0]].label
        assert workers(port) != [worker]


def test_a_full_queue(model, expected):
    with stopped(model, "--queue", "2") as (port, worker, clients):
        answers = [clients.submit(ask, port, QUERIES[0])]
        time.sleep(0.2)  # taken up by the worker
        for waiting in (1, 2):
            answers.append(clients.submit(ask, port, QUERIES[waiting]))
            until(lambda waiting=waiting: metric(port, "texts_waiting") == waiting)
        status, answer = ask(port, QUERIES[3])
        assert status == 503 and "try again" in answer["error"]
        os.kill(worker, signal.SIGCONT)
        for query, answer in zip(QUERIES, answers, strict=False):
            assert answer.result()[1]["label"] == expected[query].label


def test_nothing_accepted_is_lost_at_the_end(model, expected):
    with stopped(model) as (port, worker, clients):
        answers = [clients.submit(ask, port, query) for query in QUERIES[:6]]
        until(lambda: metric(port, "texts_waiting") == 5)
        parent = int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())[1])
        os.kill(parent, signal.SIGTERM)
        time.sleep(0.5)
        assert not any(answer.done() for answer in answers)
        os.kill(worker, signal.SIGCONT)
        for query, answer in zip(QUERIES, answers, strict=False):
            status, content = answer.result()
            assert (status, content["label"]) == (200, expected[query].label)
        with pytest.raises(OSError):
            until(lambda: not soak.get(port, "/health"))
        until(lambda: not Path(f"/proc/{worker}").exists())


def test_half_a_request_does_not_hold_up_the_end(model):
    with stopped(model) as (port, worker, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        time.sleep(0.2)
        os.kill(
            int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())[1]), signal.SIGTERM
        )
        response = connection.getresponse()
        assert response.status == 408 and "not all there" in json.loads(response.read())["error"]
        until(lambda: not Path(f"/proc/{worker}").exists())


def test_what_a_client_that_left_had_asked_is_not_answered(model, expected):
    """Texts before another's, of clients that do not wait for them: each takes no worker's time."""
    with stopped(model, "--queue", "5000") as (port, worker, clients):
        answer = clients.submit(ask, port, QUERIES[0])  # which the worker has taken up
        time.sleep(0.2)
        body = json.dumps({"texts": ["my car"] * MOST_TEXTS}).encode()
        gone = [http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(4)]
        for connection in gone:
            connection.request("POST", "/predict", body)
        until(lambda: metric(port, "texts_waiting") == 4 * MOST_TEXTS)
        for connection in gone:
            connection.close()
        time.sleep(0.2)
        os.kill(worker, signal.SIGCONT)
        assert ask(port, QUERIES[1])[1]["label"] == expected[QUERIES[1]].label
        assert answer.result()[0] == 200
        assert metric(port, 'requests_total{status="499"}') == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x", "--workers", "0"], "'--workers'"),
        (["--model", "x", "--cache", "-1"], "'--cache'"),
        (["--model", "x", "--port", "99999"], "'--port'"),
    ],
)
def test_bad_options(intents, arguments, message):
    assert message in intents("serve", *arguments, fails=2)
