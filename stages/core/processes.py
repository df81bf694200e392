"""The cores of this process, and what a training is told by the process that starts it."""

import os

from stages.core.errors import UserError

# The environment variable with the name of the file to which a search wants a training's epochs reported.
EPOCHS_FILE = "INTENTS_EPOCHS_FILE"


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count() -> int:
    """How many processes take part: 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True for the process that writes."""
    return os.environ.get("RANK", "0") == "0"


def share(batch_size: int) -> int:
    """Each process's part of a batch, so that the whole batch is the same however many there are."""
    if batch_size % count():
        raise UserError(f"a batch of {batch_size} cannot be shared by {count()} processes: choose a multiple")
    return batch_size // count()
