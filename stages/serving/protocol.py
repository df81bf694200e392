"""HTTP/1.1 for POST /predict alone, and uvicorn's for the rest.

It takes less of the CPU: README.md has how much.
"""

import asyncio
import time
from functools import lru_cache, partial
from http import HTTPStatus

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from stages.serving import body
from stages.serving.body import BodyLate
from stages.serving.jobs import Result
from stages.serving.service import Service

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}
FOR_UVICORN = {b"expect", b"transfer-encoding", b"upgrade"}  # headers that this does not speak
MOST_HEADS = 1000
LONGEST_HEAD = 1024  # bytes


@lru_cache(1000)
def lines(*headers: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def end_of_head(request: bytes) -> int:
    return request.find(b"\r\n\r\n") + 4


class Protocol(asyncio.Protocol):
    """A connection that asks /predict plainly, one request at a time.

    What is not plain is another path, method or version, a header of FOR_UVICORN, a body that is too long,
    or a second request in the same packet. From the first of these on, the connection is uvicorn's.

    `known` has the heads that the parser found plain, each with the bytes of its body. All connections of a
    service share it. Many clients send the same head again and again: a known head is not parsed again.
    """

    def __init__(
        self,
        service: Service,
        known: dict[bytes, int],
        config: Config,
        server_state: ServerState,
        **others,
    ):
        self.service, self.limits, self.known = service, service.limits, known
        self.server_state = server_state
        self.uvicorn = partial(HttpToolsProtocol, config, server_state, **others)
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.unread = b""  # came while an answer was awaited
        self.blocked = self.closing = self.lost = False
        self._next()

    def _next(self) -> None:
        """Be ready for the next request."""
        self.raw = self.url = self.body = b""
        self.begun = 0  # requests
        self.plain = True
        self.headers_complete = self.complete = self.awaited = self.several = False
        self.late: asyncio.TimerHandle | None = None
        self.active = self.loop.time()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self.idle = self.loop.call_later(self.limits.keep_alive_seconds, self._close_if_idle)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._leave()

    def _leave(self) -> None:
        self.server_state.connections.discard(self)  # type: ignore[arg-type]
        self.idle.cancel()
        if self.late:
            self.late.cancel()

    def _close_if_idle(self) -> None:
        seconds = self.limits.keep_alive_seconds
        left = self.active + seconds - self.loop.time()
        if self.begun or left > 0:
            self.idle = self.loop.call_later(left if left > 0 else seconds, self._close_if_idle)
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Close once there is no request to answer. uvicorn calls it at the end of the service."""
        self.closing = True
        if not self.begun:
            self.transport.close()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self._read_on()

    def data_received(self, data: bytes) -> None:
        if self.awaited or self.blocked:
            self.unread += data
            self.transport.pause_reading()
            return
        if not self.begun:
            self.start = time.perf_counter()
            end = end_of_head(data)
            if self.known.get(data[:end]) == len(data) - end:
                self.begun = 1
                self.body = data[end:]
                self._ask()
                return
        self.raw += data
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.plain = False
        if not (self.plain and self.headers_complete and self.begun == 1):
            self._hand_over()
        elif self.complete:
            self._learn()
            self._ask()
        elif self.late is None:
            self.late = self.loop.call_later(self.limits.body_seconds, self._answer, BodyLate())

    def _learn(self) -> None:
        """Know this head again, if the parser saw its end where `end_of_head` does."""
        end = end_of_head(self.raw)
        if end <= LONGEST_HEAD and len(self.raw) - end == len(self.body):
            if len(self.known) == MOST_HEADS:
                self.known.clear()
            self.known[self.raw[:end]] = len(self.body)

    def _read_on(self) -> None:
        if self.unread and not (self.awaited or self.blocked):
            data, self.unread = self.unread, b""
            self.transport.resume_reading()
            self.data_received(data)

    def _hand_over(self) -> None:
        self._leave()
        other = self.uvicorn()
        self.transport.set_protocol(other)
        other.connection_made(self.transport)
        other.data_received(self.raw)
        if self.closing:
            other.shutdown()

    # The parser calls these.

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in FOR_UVICORN or (name == b"content-length" and int(value) > self.limits.body_bytes):
            self.plain = False

    def on_headers_complete(self) -> None:
        parser = self.parser
        self.headers_complete = True
        if not (
            self.url in (b"/predict", b"/predict/")
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
        ):
            self.plain = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def _ask(self) -> None:
        if self.late:
            self.late.cancel()
        self.awaited = True
        try:
            texts, self.several = body.texts_in(self.body, self.limits)
            self.service.ask(texts, self._answer, lambda: self.lost)
        except Exception as error:
            self._answer(error)

    def _answer(self, result: Result) -> None:
        status, headers, content = self.service.answer(result, self.several, self.start)
        if self.lost:
            return
        if isinstance(result, BodyLate):
            self.closing = True
        if self.closing:
            headers.append((b"connection", b"close"))
        head = STATUS_LINES[status] + lines(*self.server_state.default_headers, *headers)
        self.transport.write(head + b"\r\n" + content)
        self.server_state.total_requests += 1
        self._next()
        if self.closing:
            self.transport.close()
        else:
            self._read_on()
