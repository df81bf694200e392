"""How a command ends: a UserError in one line, Ctrl-C and a closed pipe in none."""

import functools
import gc
import io
import os
import sys
from typing import NoReturn

READER_LEFT = 141  # 128 + SIGPIPE, as of a program that the signal ends


class UserError(Exception):
    """What was wrong, where, and what to do, in one line."""


def log_in(error: Exception) -> str:
    """How to log in, where `error` says that the hub shows something to some people alone."""
    hidden = any(word in str(error) for word in ("gated", "private repository"))
    return "if you may see it, log in by `hf auth login`; or " if hidden else ""


def escape_output() -> None:
    """Show what the encoding of standard output lacks with backslashes, as Python does in standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def reader_left() -> NoReturn:
    """End without a word, once who read the output has left, as `head` does."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())  # where Python flushes what is left, as it ends
    sys.exit(READER_LEFT)


def command(main):
    """Make `main` a command: a UserError ends it with its line and status 1, Ctrl-C with 130."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        gc.set_threshold(10_000)  # at 700, collections take a tenth of the time that torch takes to import
        escape_output()
        try:
            result = main(*args, **kwargs)
            print(end="", flush=True)
            return result
        except UserError as error:
            sys.exit(f"error: {error}")
        except BrokenPipeError:
            reader_left()
        except KeyboardInterrupt:
            sys.exit(130)

    return run
