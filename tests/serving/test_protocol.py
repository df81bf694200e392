"""A connection to /predict, to a service that answers a text with itself when it is told to."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import uvicorn
from uvicorn.server import ServerState

from stages.serving import protocol
from stages.serving.model import Answer
from stages.serving.options import Limits
from stages.serving.protocol import Protocol


class Service:
    def __init__(self, **limits):
        self.limits = Limits(**limits)
        self.asked: list = []
        self.answered: list = []

    def ask(self, texts, then, abandoned):
        if texts == ["fault"]:
            raise ZeroDivisionError
        self.asked.append(SimpleNamespace(texts=texts, then=then, abandoned=abandoned))

    def answer(self, result, several, start):
        self.answered.append(result)
        if isinstance(result, Exception):
            status, content = 500, type(result).__name__
        else:
            status, content = 200, [answer.label for answer in result]
        out = json.dumps(content).encode()
        return status, [(b"content-length", b"%d" % len(out))], out

    def go_on(self):
        asked, self.asked = self.asked, []
        for one in asked:
            one.then([Answer(text, 1.0) for text in one.texts])


async def app(scope, receive, send):
    """What uvicorn serves: the path that was asked."""
    out = scope["path"].encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(out))]}
    )
    await send({"type": "http.response.body", "body": out})


def served(use, known=None, **limits):
    """The result of `use(service, reader, writer, state)`, of a connection to the service."""

    config = uvicorn.Config(app, log_level="critical", lifespan="off")

    async def main():
        service, state = Service(**limits), ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Protocol(service, {} if known is None else known, config, state, app_state={}),
            "127.0.0.1",
            0,
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            async with asyncio.timeout(10):
                result = await use(service, reader, writer, state)
            writer.close()
            await writer.wait_closed()
            while state.connections:
                await asyncio.sleep(0.01)
            return result

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(main())


def request(text="a", path="/predict", head=b""):
    body = json.dumps({"text": text}).encode()
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path.encode(), head, len(body), body)


async def until(true):
    while not true():
        await asyncio.sleep(0.001)


async def answer(reader):
    """Status, headers and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, (await reader.readexactly(int(headers["content-length"]))).decode()


async def asked(service, reader, writer, whole=None):
    """Status, headers and body of what is answered to a request that the service is asked."""
    writer.write(whole or request())
    await until(lambda: service.asked)
    service.go_on()
    return await answer(reader)


def test_one_after_another():
    async def use(service, reader, writer, state):
        answers = [(await asked(service, reader, writer, request(text)))[::2] for text in ("a", "b")]
        assert state.total_requests == 2
        return answers

    assert served(use) == [(200, '["a"]'), (200, '["b"]')]


def test_a_head_that_was_plain_is_known_again():
    known = {}

    async def use(service, reader, writer, state):
        answers = [(await asked(service, reader, writer, request("a")))[2]]
        (connection,) = state.connections
        parser, connection.parser = connection.parser, None
        answers.append((await asked(service, reader, writer, request("b")))[2])
        connection.parser = parser
        answers += [(await asked(service, reader, writer, request(text)))[2] for text in ("cc", "d")]
        writer.write(request("e") + request("f"))
        return [*answers, (await answer(reader))[2]]

    assert served(use, known) == ['["a"]', '["b"]', '["cc"]', '["d"]', "/predict"]
    assert known == {request(text)[: -len(text) - 12]: len(text) + 12 for text in ("a", "cc")}


@pytest.mark.parametrize(
    "unclear",
    [
        b"\r\n\r\n" + request(),
        request(head=b"A: " + 1024 * b"a" + b"\r\n"),
        request("a", "/health"),
    ],
)
def test_other_heads_are_not_known_again(unclear):
    known = {}

    async def use(service, reader, writer, state):
        writer.write(unclear)
        await asyncio.sleep(0.05)
        service.go_on()
        await answer(reader)

    served(use, known)
    assert known == {}


def test_few_heads_are_kept(monkeypatch):
    monkeypatch.setattr(protocol, "MOST_HEADS", 2)
    known = {}

    async def use(service, reader, writer, state):
        return [(await asked(service, reader, writer, request(n * "a")))[2] for n in (1, 2, 3, 1)]

    assert served(use, known) == ['["a"]', '["aa"]', '["aaa"]', '["a"]']
    assert len(known) == 2


@pytest.mark.parametrize("apart", [b"Con", b"\r\n\r\n", b'{"te'], ids=["head", "between", "body"])
def test_a_request_in_two_packets(apart):
    """Of a head that is not whole, uvicorn takes the connection."""
    whole = request()
    cut = whole.index(apart) + len(apart)

    async def use(service, reader, writer, state):
        writer.write(whole[:cut])
        await asyncio.sleep(0.05)
        writer.write(whole[cut:])
        if apart != b"Con":
            await until(lambda: service.asked)
            service.go_on()
        return (await answer(reader))[2]

    assert served(use) == ("/predict" if apart == b"Con" else '["a"]')


@pytest.mark.parametrize("second", [request("b"), request("b", "/health")])
def test_a_request_before_the_answer(second):
    """It waits, whoever answers it; and what is the client's to say later is read."""

    async def use(service, reader, writer, state):
        writer.write(request("a"))
        await until(lambda: service.asked)
        writer.write(second)
        await asyncio.sleep(0.05)
        assert len(service.asked) == 1
        service.go_on()
        answers = [(await answer(reader))[2]]
        if b"health" not in second:
            await until(lambda: service.asked)
            service.go_on()
        answers.append((await answer(reader))[2])
        writer.write(request("c", "/last"))
        return [*answers, (await answer(reader))[2]]

    assert served(use) == ['["a"]', "/health" if b"health" in second else '["b"]', "/last"]


def test_two_requests_in_one_packet_are_uvicorns():
    async def use(service, reader, writer, state):
        writer.write(request("a") + request("b", "/health"))
        return [(await answer(reader))[2] for _ in range(2)]

    assert served(use) == ["/predict", "/health"]


@pytest.mark.parametrize(
    "plain",
    [
        request(path="/health"),
        request(path="/predict?a=1"),
        request(head=b"Expect: nothing\r\n"),
        request(head=b"Connection: close\r\n"),
        request().replace(b"1.1", b"1.0"),
        request(head=b"Connection: keep-alive\r\n").replace(b"1.1", b"1.0"),
        b"GET /predict HTTP/1.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 101\r\n\r\n",
    ],
)
def test_what_is_not_plain_is_uvicorns(plain):
    async def use(service, reader, writer, state):
        await asked(service, reader, writer)
        writer.write(plain)
        return (await answer(reader))[2]

    assert served(use, body_bytes=100).startswith(("/predict", "/health"))


def test_what_is_no_http_is_uvicorns_too():
    async def use(service, reader, writer, state):
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        return await reader.readline()

    assert served(use).startswith(b"HTTP/1.1 400")


def test_bad_requests_and_faults():
    async def use(service, reader, writer, state):
        answers = []
        for bad in (request(5), request("fault"), b"POST /predict HTTP/1.1\r\n\r\n"):
            writer.write(bad)
            answers.append((await answer(reader))[2])
        return answers

    assert served(use) == ['"BadRequest"', '"ZeroDivisionError"', '"BadRequest"']


def test_a_body_that_is_late():
    async def use(service, reader, writer, state):
        writer.write(request()[:-1])
        _, headers, content = await answer(reader)
        assert headers["connection"] == "close" and await reader.read() == b""
        return content

    assert served(use, body_seconds=0.05) == '"BodyLate"'


def test_an_idle_connection_is_closed_and_a_busy_one_is_not():
    async def use(service, reader, writer, state):
        writer.write(request())
        await until(lambda: service.asked)
        await asyncio.sleep(0.25)
        service.go_on()
        await answer(reader)
        await asyncio.sleep(0.05)
        _, _, content = await asked(service, reader, writer, request("b"))
        assert await reader.read() == b""
        return content

    assert served(use, keep_alive_seconds=0.1) == '["b"]'


def test_a_client_that_leaves():
    async def use(service, reader, writer, state):
        writer.write(request())
        await until(lambda: service.asked)
        assert not service.asked[0].abandoned()
        writer.close()
        await until(service.asked[0].abandoned)
        service.go_on()
        return len(service.answered), state.total_requests

    assert served(use) == (1, 0)


@pytest.mark.parametrize("begun", [b"", request()[:-1], request()], ids=["idle", "begun", "asked"])
def test_the_end_of_the_service(begun):
    """A request that has begun is answered, and then the connection is closed."""

    async def use(service, reader, writer, state):
        writer.write(begun)
        await asyncio.sleep(0.05)
        for connection in list(state.connections):
            connection.shutdown()
        if begun:
            writer.write(request()[len(begun) :])
            await until(lambda: service.asked)
            service.go_on()
            _, headers, content = await answer(reader)
            assert headers["connection"] == "close" and content == '["a"]'
        return await reader.read()

    assert served(use) == b""


def test_a_client_that_does_not_read_is_not_answered_on():
    """Until it reads: what it has not read does not fill our memory."""

    async def use(service, reader, writer, state):
        text = "a" * 2000
        (connection,) = await connections(state)
        connection.transport.set_write_buffer_limits(high=10_000)
        sent = 0
        while not connection.blocked:
            writer.write(request(text))
            sent += 1
            await until(lambda: service.asked or connection.blocked)
            service.go_on()
        writer.write(request("last"))
        await asyncio.sleep(0.05)
        assert not service.asked
        read = [(await answer(reader))[2] for _ in range(sent)]
        assert read == [json.dumps([text])] * sent
        await until(lambda: service.asked)
        service.go_on()
        return (await answer(reader))[2]

    async def connections(state):
        await until(lambda: state.connections)
        return list(state.connections)

    assert served(use) == '["last"]'
