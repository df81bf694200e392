"""A queue of the service, asked as a coroutine."""

import asyncio


def here():
    return False


async def ask(answering, texts, abandoned=here):
    """The answers to `texts`; what goes wrong is raised."""
    answered = asyncio.get_running_loop().create_future()
    request = answering.ask(texts, answered.set_result, abandoned)
    result = await answered
    assert request.over
    if isinstance(result, Exception):
        raise result
    return result
