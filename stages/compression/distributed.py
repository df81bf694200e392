"""One training on several processes, as torchrun starts them."""

import os

from stages.errors import UserError


def processes() -> int:
    """How many take part: 1, without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True for the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def share(batch_size: int) -> int:
    """Each process's part of a batch, so that the whole is as large however many there are."""
    count = processes()
    if batch_size % count:
        raise UserError(f"a batch of {batch_size} cannot be shared by {count} processes: choose a multiple")
    return batch_size // count
