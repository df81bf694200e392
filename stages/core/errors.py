"""Errors that a user can put right, shown as one line instead of a traceback."""

import functools
import gc
import sys


class UserError(Exception):
    """What was wrong, where, and what to do, in one line."""


def command(main):
    """Make `main` a command: a UserError ends it with its line and status 1, Ctrl-C with 130."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        gc.set_threshold(10_000)  # at 700, collections take a tenth of the time that torch takes to import
        try:
            return main(*args, **kwargs)
        except UserError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run
