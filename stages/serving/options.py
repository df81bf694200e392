"""How a model is served, and what a client may ask."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What a request may be, how much may wait, and how many seconds anything may take."""

    queue: int = 256  # texts that wait in a process
    body_bytes: int = 2**20
    characters: int = 2000  # of a text
    texts: int = 64  # of a request
    body_seconds: float = 10.0
    answer_seconds: float = 30.0
    keep_alive_seconds: int = 75  # more than a load balancer's, so that it is not the service that closes
    start_seconds: float = 120.0  # to load the model, after which a process is started again
    hung_seconds: float = 10.0  # after which a process that does not answer is replaced


@dataclass(frozen=True)
class Options:
    """The `model` folder, served with a cache of so many answers in a process.

    The process runs the model itself, or has so many `workers` do it. With a `page`, a person can ask it.
    """

    model: Path
    workers: int = 0
    cache: int = 0
    page: bool = True
    limits: Limits = field(default_factory=Limits)
