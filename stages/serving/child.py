"""A process that was started from here, and lines of JSON between the two."""

import asyncio
import json
import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

from stages.core.errors import UserError


class Lines(asyncio.Protocol):
    """One end of a socket: `heard` gets what comes through, and `lost` is called at the end."""

    def __init__(self, heard: Callable[[Any], None], lost: Callable[[], None]):
        self.heard, self.lost = heard, lost
        self.part = b""

    async def connect(self, end: socket.socket) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, sock=end)

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.part = (self.part + data).split(b"\n")
        for line in lines:
            self.heard(json.loads(line))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost()

    def send(self, message: object) -> None:
        self.transport.write(line(message))


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def in_words(error: Exception) -> str:
    """One line of `error`, for the process at the other end."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {text}"


class Child(Lines):
    """A process that runs `target(*arguments, end)`, where `end` is its end of the socket.

    `lost` is called when the process dies, if it was not closed.
    """

    async def start(self, target: Callable, *arguments: object) -> None:
        ours, theirs = socket.socketpair()
        self.closed = False
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=target, args=(*arguments, theirs))
        self.process.start()
        theirs.close()
        await self.connect(ours)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed:
            self.lost()

    def close(self) -> None:
        """Kill the process, if it has not ended."""
        self.closed = True
        self.transport.abort()
        self.process.kill()
        self.process.join()
