"""What a person runs: `intents <command>`."""

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from stages.core.errors import UserError, escape_output, reader_left

COMMANDS = (
    "init",
    "predict",
    "results",
    "explore",
    "serve",
    "bundle",
    "publish",
    "compare",
    "sweep",
    "search",
    "seeds",
    "peers",
)
# Packages that `pip install -e .` leaves out, and the extra that brings them.
EXTRAS = {"optuna": "search"}


class Commands(click.Group):
    """A module here is imported when its command is asked for, and a UserError is one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        here = Path(__file__).parent
        return [name for name in COMMANDS if (here / f"{name}.py").exists()]  # a bundle has not all of them

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        return import_module(f"stages.commands.{name}").command

    def main(self, *args, **kwargs):
        escape_output()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            line = f"error: {error.name} is not installed: pip install -e '.[{EXTRAS[error.name]}]'"
            click.echo(line, err=True)
            sys.exit(1)
        except BrokenPipeError:
            reader_left()
        except KeyboardInterrupt:
            sys.exit(130)


def typed(argument: str, name: str) -> str:
    """The UTF-8 text of an argument, whatever the locale; a UserError names the byte that is not."""
    try:
        return os.fsencode(argument).decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        where = f"byte {error.start + 1}: {error.reason}"
        raise UserError(f"{name} is not UTF-8 ({where}): give whole characters") from None


def warn_if_uncalibrated(model: Path) -> None:
    """Say in a line of standard error that a model folder has no out-of-scope threshold."""
    if (model / "config.json").exists() and not (model / "calibration.json").exists():
        text = "is not calibrated: it has no out-of-scope threshold; calibrated/<name> has one"
        click.echo(f"note: {model} {text}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main():
    """Small and fast intent classifiers: use, serve, compare and search them."""
