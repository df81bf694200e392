"""The service as its clients see it: a process of its own, over a socket."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import runtime
from stages.serving import soak, traffic
from stages.serving.metrics import SOON
from stages.serving.options import Limits, Options
from stages.serving.service import Service
from stages.serving.workers import AHEAD

QUERIES = [f"{verb} w{i} {rest}" for i in range(20, 50) for verb in ("send", "rent") for rest in ("car", "")]


def post(port, body, path="/predict", method="POST", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return response.status, json.loads(response.read() or b"null")


def ask(port, text):
    return post(port, json.dumps({"text": text}).encode())


def metric(port, name):
    time.sleep(5 * SOON)  # another process may not have counted its answers yet
    text = soak.get(port, "/metrics").decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def health(port):
    return json.loads(soak.get(port, "/health"))


def workers(port):
    return health(port)["workers"]


def parent(pid):
    return int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def children(pid):
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def supervisor(port):
    return parent(health(port)["processes"][0])


def gone(*pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


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
    with soak.service(model, "--processes", "2") as port:
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
    "too long": (json.dumps({"text": "a" * (Limits.characters + 1)}).encode(), 413, "characters"),
    "too many": (json.dumps({"texts": ["a"] * (Limits.texts + 1)}).encode(), 413, "texts"),
    "too large": (b" " * (Limits.body_bytes + 1), 413, "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(port, name):
    body, status, word = BAD[name]
    ask(port, QUERIES[0])
    before = metric(port, 'requests_total{status="200"}')
    found, answer = post(port, body)
    assert found == status
    assert word in answer["error"] and "\n" not in answer["error"]
    assert metric(port, 'requests_total{status="200"}') == before


def test_just_short_enough(port):
    assert ask(port, "a" * Limits.characters)[0] == 200
    assert post(port, json.dumps({"texts": ["my car"] * Limits.texts}).encode())[0] == 200


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


def get(port, path, method="GET", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body)
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
        ("GET", "/doc", 404, None),
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
    assert json.loads(get(port, "/health/")[1]) == health(port)
    assert b"processes_ready" in get(port, "/metrics/")[1]


def test_a_request_to_upgrade(port):
    """As Java's HttpClient sends by default."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": ""}
    status, answer = post(port, json.dumps({"text": QUERIES[0]}), headers=headers)
    assert status == 400 and "without Upgrade" in answer["error"]


def test_a_fault_of_the_service_is_json_too(model):
    """As its model was never loaded."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b'{"text": "my balance"}'}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    asyncio.run(Service(Options(model)).app()(scope, receive, send))
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


def mixed_load(port, expected):
    labels = {query: prediction.label for query, prediction in expected.items()}
    requests = soak.mix(traffic.draw(QUERIES, 1.0, 5000, seed=0), labels, 3000, seed=0)
    return soak.run(port, requests, clients=8, kill=True)


def test_a_worker_is_killed_and_nothing_is_lost(model, expected):
    with soak.service(model, "--processes", "1", "--workers", "2", "--cache", "20") as port:
        before = workers(port)
        found = mixed_load(port, expected)
        assert (found["right"], found["wrong"], found["lost"]) == (3000, 0, 0)
        until(lambda: len(workers(port)) == 2 and workers(port) != before)
        assert metric(port, "worker_restarts_total") == 1
        lookups = [metric(port, f'cache_lookups_total{{result="{kind}"}}') for kind in ("hit", "miss")]
        assert min(lookups) > 100


def test_a_process_is_killed_and_loses_what_it_had_accepted_alone(model, expected):
    """At most a request of each client, none is answered wrongly, and the others go on."""
    with soak.service(model, "--processes", "2") as port:
        before = health(port)["processes"]
        found = mixed_load(port, expected)
        assert found["wrong"] == 0 and found["lost"] <= 8 and found["right"] == 3000 - found["lost"]
        until(lambda: len(health(port)["processes"]) == 2 and set(health(port)["processes"]) != set(before))
        until(lambda: metric(port, "processes_ready") == 2)
        assert metric(port, "process_restarts_total") == 1
        assert metric(port, "request_seconds_count") > 2500  # of the dead process too, but for its last


def test_one_port_and_several_processes(port, model):
    """Each answers, /metrics is of all, and none of them listens where another service does."""
    processes = health(port)["processes"]
    assert len(processes) == 2 and supervisor(port) not in processes
    before = [cpu_seconds(pid) for pid in processes]
    label = ask(port, QUERIES[0])[1]["label"]
    counted = metric(port, f'predictions_total{{label="{label}"}}')
    for _ in range(300):
        assert ask(port, QUERIES[0])[0] == 200
    assert metric(port, f'predictions_total{{label="{label}"}}') == counted + 300
    assert all(cpu_seconds(pid) > then for pid, then in zip(processes, before, strict=True))
    failed = subprocess.run(
        [sys.executable, "-m", "stages.commands", "serve", "--model", str(model), "--port", str(port)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert failed.returncode == 1 and f"error: cannot listen on 127.0.0.1, port {port}" in failed.stderr


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_process_that_hangs_is_replaced_and_its_connections_wait(model, expected):
    with soak.service(model, "--processes", "1", "--hung-seconds", "3") as port, ThreadPoolExecutor(1) as one:
        (hung,) = health(port)["processes"]
        os.kill(hung, signal.SIGSTOP)
        answer = one.submit(ask, port, QUERIES[0])
        assert answer.result()[1]["label"] == expected[QUERIES[0]].label  # not accepted, so not lost
        assert gone(hung) and metric(port, "process_restarts_total") >= 1


def test_a_process_that_hangs_while_it_starts_is_replaced(model, expected):
    start = time.monotonic()
    with soak.service(model, "--processes", "1"):
        enough = str(max(3.0, 3 * (time.monotonic() - start)))
    options = ("--processes", "1", "--start-seconds", enough)
    with soak.service(model, *options) as port, ThreadPoolExecutor(1) as one:
        (first,) = health(port)["processes"]
        service = parent(first)
        before = children(service)
        os.kill(first, signal.SIGKILL)
        until(lambda: children(service) - before)
        (second,) = children(service) - before
        os.kill(second, signal.SIGSTOP)
        answer = one.submit(ask, port, QUERIES[0])
        assert answer.result()[1]["label"] == expected[QUERIES[0]].label
        assert gone(first, second) and metric(port, "process_restarts_total") == 2


def test_a_process_that_hangs_does_not_hold_up_the_end(model):
    seconds = ("--body-seconds", "1", "--answer-seconds", "1", "--hung-seconds", "60")
    with soak.service(model, "--processes", "1", *seconds) as port:
        (hung,) = health(port)["processes"]
        service = parent(hung)
        os.kill(hung, signal.SIGSTOP)
        os.kill(service, signal.SIGTERM)
        until(lambda: gone(hung))


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["processes", "workers"])
def test_what_was_accepted_is_answered_at_the_end(model, expected, options):
    """A request whose body is still on its way when SIGTERM comes; no other connection is taken."""
    with soak.service(model, "--processes", "2", *options) as port:
        everyone = [supervisor(port), *health(port)["processes"], *workers(port)]
        body = json.dumps({"text": QUERIES[0]}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:5])
        time.sleep(0.3)
        os.kill(everyone[0], signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(OSError):
            soak.get(port, "/health")
        connection.send(body[5:])
        response = connection.getresponse()
        assert json.loads(response.read())["label"] == expected[QUERIES[0]].label
        until(lambda: gone(*everyone[1:]))


def test_half_a_request_does_not_hold_up_the_end(model):
    with soak.service(model, "--processes", "1", "--body-seconds", "1") as port:
        (process,) = health(port)["processes"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        time.sleep(0.2)
        os.kill(parent(process), signal.SIGTERM)
        response = connection.getresponse()
        assert response.status == 408 and "after 1 s" in json.loads(response.read())["error"]
        until(lambda: gone(process))


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["processes", "workers"])
def test_all_end_with_the_supervisor(model, options):
    with soak.service(model, "--processes", "2", *options) as port:
        others = health(port)["processes"] + workers(port)
        os.kill(supervisor(port), signal.SIGKILL)
        until(lambda: gone(*others))


@contextmanager
def stopped(model, *options):
    """A service whose only worker stands still, with as many texts as it is sent ahead, and its clients."""
    with (
        soak.service(model, "--processes", "1", "--workers", "1", *options) as port,
        ThreadPoolExecutor(8) as clients,
    ):
        (worker,) = workers(port)
        os.kill(worker, signal.SIGSTOP)
        body = json.dumps({"texts": QUERIES[:AHEAD]})
        first = clients.submit(post, port, body)
        until(lambda: metric(port, "texts_waiting") == 0)
        time.sleep(0.2)
        yield port, worker, clients, first


def labels(answer):
    status, content = answer.result()
    assert status == 200
    return [p["label"] for p in content.get("predictions", [content])]


def test_requests_outlive_their_worker(model, expected):
    with stopped(model) as (port, worker, _, first):
        os.kill(worker, signal.SIGKILL)
        assert labels(first) == [expected[query].label for query in QUERIES[:AHEAD]]
        until(lambda: workers(port) not in ([], [worker]))


def test_a_full_queue(model, expected):
    with stopped(model, "--queue", "2") as (port, worker, clients, first):
        answers = []
        for waiting in (1, 2):
            answers.append(clients.submit(ask, port, QUERIES[waiting]))
            until(lambda waiting=waiting: metric(port, "texts_waiting") == waiting)
        response, content = get(port, "/predict", "POST", json.dumps({"text": QUERIES[3]}))
        assert response.status == 503 and "try again" in json.loads(content)["error"]
        assert response.headers["Retry-After"] == "1"
        os.kill(worker, signal.SIGCONT)
        assert len(labels(first)) == AHEAD
        assert [labels(answer) for answer in answers] == [[expected[query].label] for query in QUERIES[1:3]]


def test_nothing_accepted_is_lost_at_the_end(model, expected):
    with stopped(model) as (port, worker, clients, first):
        answers = [clients.submit(ask, port, query) for query in QUERIES[:5]]
        until(lambda: metric(port, "texts_waiting") == 5)
        everyone = [*health(port)["processes"], worker]
        os.kill(supervisor(port), signal.SIGTERM)
        time.sleep(0.5)
        assert not any(answer.done() for answer in (first, *answers))
        os.kill(worker, signal.SIGCONT)
        assert len(labels(first)) == AHEAD
        assert [labels(answer) for answer in answers] == [[expected[query].label] for query in QUERIES[:5]]
        with pytest.raises(OSError):
            until(lambda: not soak.get(port, "/health"))
        until(lambda: gone(*everyone))


def test_what_a_client_that_left_had_asked_is_not_answered(model, expected):
    """Texts before another's, of clients that do not wait for them: each takes no worker's time."""
    with stopped(model, "--queue", "5000") as (port, worker, _, first):
        body = json.dumps({"texts": ["my car"] * Limits.texts}).encode()
        left = [http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(4)]
        for connection in left:
            connection.request("POST", "/predict", body)
        until(lambda: metric(port, "texts_waiting") == 4 * Limits.texts)
        for connection in left:
            connection.close()
        time.sleep(0.2)
        os.kill(worker, signal.SIGCONT)
        assert ask(port, QUERIES[1])[1]["label"] == expected[QUERIES[1]].label
        assert len(labels(first)) == AHEAD
        assert metric(port, 'requests_total{status="499"}') == 4
        assert metric(port, "prediction_score_count") == AHEAD + 1


def test_limits_are_options(model):
    limits = ("--max-body", "100", "--max-characters", "10", "--max-texts", "2")
    with soak.service(model, "--processes", "1", *limits) as port:
        assert ask(port, "my balance")[0] == 200
        for body, error in (
            ('{"text": "my balances"}', "11 characters: send at most 10"),
            ('{"texts": ["a", "b", "c"]}', "3 texts: send at most 2"),
            (" " * 101, "longer than 100 bytes"),
        ):
            status, answer = post(port, body)
            assert status == 413 and error in answer["error"]


def test_a_model_that_does_not_load(models):
    (models / "student-ort" / "model.onnx").write_bytes(b"nothing")
    for options in ((), ("--workers", "1")):
        command = [sys.executable, "-m", "stages.commands", "serve", "--model", "models/student-ort"]
        failed = subprocess.run([*command, "--port", "0", *options], capture_output=True, text=True)
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1].startswith("error: models/student-ort: ")
        assert "Traceback" not in failed.stderr


def test_a_model_that_takes_long_to_load(model):
    command = [sys.executable, "-m", "stages.commands", "serve", "--model", str(model), "--port", "0"]
    failed = subprocess.run([*command, "--start-seconds", "0.01"], capture_output=True, text=True)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert failed.stderr.endswith("not ready after 0.01 s: raise --start-seconds\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x", "--processes", "0"], "'--processes'"),
        (["--model", "x", "--workers", "-1"], "'--workers'"),
        (["--model", "x", "--body-seconds", "0"], "'--body-seconds'"),
        (["--model", "x", "--cache", "-1"], "'--cache'"),
        (["--model", "x", "--port", "99999"], "'--port'"),
    ],
)
def test_bad_options(intents, arguments, message):
    assert message in intents("serve", *arguments, fails=2)
