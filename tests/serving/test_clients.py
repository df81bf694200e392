"""The service asked by clients that were not written for it."""

import json
import shutil
import socket
import subprocess
import time

import pytest

from stages import runtime
from stages.serving import soak

TEXT = "my balance"
BODY = json.dumps({"text": TEXT})


@pytest.fixture(scope="module")
def port(exported):
    with soak.service(exported / "student-ort", "--processes", "2") as port:
        yield port


@pytest.fixture(scope="module")
def label(exported):
    return runtime.load(exported / "student-ort").predict([TEXT])[0].label


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--http1.0"],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Expect: 100-continue"],
        ["-H", "Content-Type: application/json"],
        ["-H", "Connection: close"],
        ["--http2"],  # without TLS it asks to upgrade, and says so
    ],
    ids=" ".join,
)
def test_curl(port, label, options):
    command = ["curl", "-sS", "-m", "20", "--data-binary", "@-", *options, f"http://127.0.0.1:{port}/predict"]
    done = subprocess.run(command, input=BODY, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    if options == ["--http2"] and "error" in answer:
        assert "without Upgrade" in answer["error"]
    else:
        assert answer["label"] == label


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_keeps_its_connection(port, label):
    url = f"http://127.0.0.1:{port}/predict"
    command = ["curl", "-sS", "-v", "-m", "20", "-d", BODY, url, "--next", "-sS", "-v", "-d", BODY, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count(f'"label":"{label}"') == 2
    assert "Re-using existing" in done.stderr or "Re-using" in done.stderr


def raw(port, data, until):
    """What comes back for the bytes of `data`, sent one part after another, until it has so many `until`."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in data:
            connection.sendall(part)
            time.sleep(0.05)
        while answer.count(until[0]) < until[1] and (more := connection.recv(65536)):
            answer += more
    return answer


def request(body, extra=b""):
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n" % (extra, len(body))
    return head + body


def test_pipelining(port, label):
    """Several requests in one packet are answered in their order."""
    bodies = [BODY.encode(), b'{"text": ""}', BODY.encode()]
    answer = raw(port, [b"".join(map(request, bodies))], (b"HTTP/1.1 ", 3))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]


def test_a_byte_at_a_time(port, label):
    data = request(BODY.encode())
    answer = raw(port, [data[i : i + 20] for i in range(0, len(data), 20)], (b"}", 1))
    assert label.encode() in answer


def test_expect_is_answered_before_the_body_comes(port, label):
    head, body = request(BODY.encode(), b"Expect: 100-continue\r\n").split(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        answer = b""
        while label.encode() not in answer:
            part = connection.recv(65536)
            assert part, answer
            answer += part


def test_what_is_no_http(port):
    assert raw(port, [b"\x16\x03\x01 hello\r\n\r\n"], (b"\r\n\r\n", 1)).startswith(b"HTTP/1.1 400")


def test_requests(port, label):
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        for _ in range(3):
            answer = session.post(f"http://127.0.0.1:{port}/predict", json={"text": TEXT}, timeout=20)
            assert answer.json()["label"] == label
        chunks = iter([BODY[:4].encode(), BODY[4:].encode()])
        assert (
            session.post(f"http://127.0.0.1:{port}/predict", data=chunks, timeout=20).json()["label"] == label
        )
        assert session.get(f"http://127.0.0.1:{port}/health", timeout=20).status_code == 200


def test_httpx(port, label):
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        for _ in range(3):
            assert (
                client.post("/predict", json={"texts": [TEXT] * 3}).json()["predictions"][2]["label"] == label
            )
        assert client.get("/metrics").headers["Content-Type"].startswith("text/plain")


@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")
def test_wrk(port, tmp_path):
    script = tmp_path / "post.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = '{BODY}'\n")
    command = ["wrk", "-t1", "-c16", "-d1s", "-s", str(script), f"http://127.0.0.1:{port}/predict"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "requests in" in out and "Non-2xx" not in out and "Socket errors" not in out
