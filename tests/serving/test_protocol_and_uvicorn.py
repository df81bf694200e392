"""Whatever bytes come, in whatever parts: the answers are those that uvicorn gives alone."""

import asyncio
import json
from itertools import pairwise

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from stages.serving.options import Limits, Options
from stages.serving.protocol import Protocol
from stages.serving.service import Service

INVALID = b"Invalid HTTP request received."
TURNS = 60  # of the event loop, in which all that can be answered is
PATHS = ("/predict", "/predict/", "/predict?a=1", "/health", "/nowhere", "http://a/predict", "/", "*")
BODIES = (
    b'{"text": "my balance"}',
    b'{"texts": ["my balance", "send money"]}',
    b'{"text": ""}',
    b"{}",
    b"",
    json.dumps({"text": "a" * 300}).encode(),
)
HEADERS = (
    "Host: a",
    "Connection: close",
    "Connection: keep-alive",
    "Expect: 100-continue",
    "Transfer-Encoding: chunked",
    "Content-Length: 3",
    "Content-Length: x",
    "Upgrade: h2c",
    "X: a\r\n folded",
    "Bad header",
)


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self, protocol):
        super().__init__()
        self.protocol, self.out, self.closed, self.paused = protocol, b"", False, False
        protocol.connection_made(self)

    def get_extra_info(self, name, default=None):
        return {"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data):
        if not self.closed:
            self.out += data

    def is_closing(self):
        return self.closed

    def close(self):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


async def turns():
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def answers(protocol, parts):
    """What comes back for `parts`, each a number of bytes and whether all is quiet before the next."""
    transport = Transport(protocol)
    for data, quiet in parts:
        if transport.paused:
            await turns()
        if transport.closed:
            break
        assert not transport.paused
        transport.protocol.data_received(data)
        if quiet:
            await turns()
    await turns()
    transport.close()
    await turns()
    return transport.out


@st.composite
def requests(draw):
    method = draw(st.sampled_from(["POST"] * 20 + ["GET", "HEAD", "PUT", "post"]))
    path = draw(st.sampled_from(PATHS[:2] * 10 + PATHS))
    version = draw(st.sampled_from(["1.1"] * 10 + ["1.0", "2.0", "1"]))
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2) | st.just([]))
    body = draw(st.sampled_from(BODIES))
    if draw(st.integers(0, 9)) or method == "POST":
        headers = [*headers, f"Content-Length: {len(body)}"]
    before = draw(st.sampled_from([""] * 20 + ["\r\n", "\r\n\r\n"]))
    head = f"{before}{method} {path} HTTP/{version}\r\n" + "".join(f"{line}\r\n" for line in headers)
    return head.encode() + b"\r\n" + body


@st.composite
def streams(draw):
    """One request after another, whole or cut or with the next, now and then with a byte that is wrong."""
    asked = draw(st.lists(requests(), min_size=1, max_size=4))
    whole = b"".join(asked)
    ends = {len(whole)}
    length = 0
    for one in asked:
        length += len(one)
        if draw(st.integers(0, 3)):
            ends.add(length)
        if draw(st.integers(0, 3)) == 0:
            ends.add(length - draw(st.integers(1, len(one) - 1)))
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(whole)))
        whole = whole[:at] + draw(st.binary(max_size=2)) + whole[at + 1 :]
    cuts = [0, *sorted(ends)]
    parts = [whole[start:end] for start, end in pairwise(cuts)]
    return [(part, draw(st.booleans())) for part in parts if part]


@pytest.fixture(scope="module")
def service(exported):
    return Service(Options(exported / "student-ort", limits=Limits(body_bytes=250)))


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(parts=streams())
def test_the_answers_are_uvicorns(service, parts):
    """Also to those who send the same again, whose heads are known by then."""
    config = uvicorn.Config(service.app(), log_level="critical", lifespan="off", ws="none", access_log=False)
    config.load()
    known: dict[bytes, int] = {}

    async def main():
        await service.answering.start()
        ours = [
            await answers(Protocol(service, known, config, ServerState(), app_state={}), parts)
            for _ in range(2)
        ]
        return ours, await answers(HttpToolsProtocol(config, ServerState(), app_state={}), parts)

    ours, theirs = asyncio.run(main())
    if INVALID in theirs:  # which uvicorn says before it answers what came earlier
        assert all(out.endswith(theirs[theirs.index(INVALID) :]) for out in ours)
    else:
        assert ours == [theirs, theirs]
