"""What the body of a request asks: {"text": ...} or {"texts": [...]}."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable

from stages.serving.jobs import Abandoned
from stages.serving.options import Limits

Receive = Callable[[], Awaitable[dict]]


class BadRequest(Exception):
    """The client's fault: a status of 4xx, and what to do."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class BodyLate(Exception):
    """The body was not all there in the time that there is for it."""


async def read(receive: Receive, headers: Iterable[tuple[bytes, bytes]], limits: Limits) -> bytes:
    """The whole body. Raises BadRequest, BodyLate or Abandoned."""
    body = b""
    more = True
    try:
        async with asyncio.timeout(limits.body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Abandoned
                body += message.get("body", b"")
                if len(body) > limits.body_bytes:
                    line = f"the body is longer than {limits.body_bytes} bytes: send fewer texts"
                    raise BadRequest(413, line)
                more = message.get("more_body", False)
    except TimeoutError:
        raise BodyLate from None
    if not body and any(name == b"upgrade" for name, _ in headers):  # uvicorn reads no further (issue 2722)
        raise BadRequest(
            400,
            "the body of a request to upgrade is not read: send HTTP/1.1 without Upgrade (Java's HTTP_1_1)",
        )
    return body


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise BadRequest(400, "an object of the body has a key twice: send each once")
    return content


decode = json.JSONDecoder(object_pairs_hook=_each_key_once).decode


def texts_in(body: bytes, limits: Limits) -> tuple[list[str], bool]:
    """The texts in the body, and whether they were a list. Raises BadRequest."""
    try:
        content = decode(body.decode("utf-8"))
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
    if len(texts) > limits.texts:
        raise BadRequest(413, f'"texts" has {len(texts)} texts: send at most {limits.texts} at a time')
    for number, text in enumerate(texts, 1):
        try:
            _check(text, limits)
        except BadRequest as error:
            which = f"text {number}" if several else "the text"
            raise BadRequest(error.status, f"{which} {error}") from None
    return texts, several


def _check(text: str, limits: Limits) -> None:
    if not text.strip():
        raise BadRequest(400, "is empty: send at least one word")
    if len(text) > limits.characters:
        raise BadRequest(413, f"has {len(text)} characters: send at most {limits.characters}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"has half of a surrogate pair, its character {error.start + 1}"
        raise BadRequest(400, f"{half}: send whole characters") from None
