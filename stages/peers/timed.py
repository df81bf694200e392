"""A model that answers in a process of its own, timed there."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stages.core.errors import UserError
from stages.measurement.speed.measured_model import MeasuredModel


def last_line(log: Path) -> str:
    """The end of an error's message: what the process that wrote `log` said last, and where the rest is."""
    lines = log.read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "nothing")
    return f" ({last.removeprefix('error: ')[:200]}): see {log}, or leave it out"


class Timed(MeasuredModel):
    """As MeasuredModel, in the process that `command` starts, a worker; a context, at whose end it ends.

    The clock runs in that process. What it costs to ask is not timed.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path):
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> "Timed":
        return self

    def __exit__(self, *error) -> None:
        self.process.kill()
        self.process.communicate()

    def time(self, queries: list[str]) -> float:
        return self._ask(queries)[0]

    def time_parts(self, query: str) -> tuple[float, float]:
        tokenization, session = self._ask({"parts": query})
        return tokenization, session

    def _ask(self, request) -> list[float]:
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.wait()
            raise UserError(f"a process that answers queries ended{last_line(self.log)}") from None
