"""Name the intent of queries."""

import codecs
import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from stages.commands import typed, warn_if_uncalibrated
from stages.core.errors import UserError

DASHED = re.compile(r"-(?!-?[A-Za-z][\w-]*=).*\s", re.DOTALL)  # with a space, and no `--option=value`


class QueryCommand(click.Command):
    """A command whose argument may begin with a dash: `-5 degrees`, which has a space, is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name for param in self.params if isinstance(param, click.Option) for name in param.opts}
        others: list[str] = []
        queries: list[str] = []
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                queries += rest
            elif arg in options:
                others += [arg, *islice(rest, 1)]  # with its value
            elif DASHED.match(arg) and arg.split()[0] not in options:
                queries.append(arg)
            else:
                others.append(arg)
        return super().parse_args(ctx, [*others, "--", *queries] if queries else others)


def texts(lines: Iterable[bytes]) -> Iterator[str]:
    """The lines of standard input without their ends; blank ones are left out, and counted in a note.

    They are UTF-8, whatever the locale. A UserError names the line and the byte that are not.
    """
    blank = 0
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"standard input is not UTF-8 (line {number}, byte {error.start + 1}: {error.reason}): "
                "convert it, e.g. with iconv"
            ) from None
        if number == 1:
            text = text.removeprefix("\ufeff")  # a byte order mark
        text = text.strip()
        if "\0" in text or "\r" in text:
            name = "NUL, as UTF-16 has" if "\0" in text else "carriage return"
            raise UserError(
                f"standard input has a {name}, in line {number}: give UTF-8, with a query in each line"
            )
        if text:
            yield text
        else:
            blank += 1
    if blank:
        click.echo(f"note: blank lines of standard input, which have no answer: {blank}", err=True)


@click.command(cls=QueryCommand)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="A model folder.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the model.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Take QUERY as a file; write it here.")
@click.option("--column", help="Of the file, the column of the queries: text, if not given.")
@click.argument("query", required=False)
def command(model: Path, threads: int, output: Path | None, column: str | None, query: str | None):
    """Name the intent of a query, or of lines of input.

    A QUERY gives its label and score. One that begins with a dash has a space in it, or comes after --.
    Lines of standard input, in UTF-8, give a JSON object each, as they come. Models in calibrated/ know when
    a query is out of scope.

    With -o, QUERY is a file: CSV (any delimiter), TSV, JSON lines or Parquet. The columns `prediction` and
    `score` are added to its own.

    \b
    intents predict --model calibrated/distilled-ort-int8 "I'd like to rent a vehicle in Paris"
    intents predict --model calibrated/distilled-ort-int8 < queries.txt
    intents predict --model calibrated/distilled-ort-int8 queries.csv -o answers.csv
    """
    if (output is not None or column is not None) and (query is None or output is None):
        raise UserError("a file of queries goes with --output: intents predict queries.csv -o answers.csv")
    if query is not None:
        query = typed(query, "the query")
        if not query.strip():
            raise UserError("the query is empty: give a text with at least one word")
    elif sys.stdin is None:
        raise UserError("standard input is closed: give a query, or lines of input")
    from stages import runtime

    classifier = runtime.load(model, threads)
    warn_if_uncalibrated(model)
    if output is not None and query is not None:
        from stages.data import answered

        def predict(texts: list[str]) -> list[runtime.Prediction]:
            return [classifier.predict([text])[0] for text in texts]  # as single queries are served

        count = answered.write(Path(query), column or "text", output, predict)
        click.echo(f"{output}: {count:,} queries")
        return
    if query is not None:
        prediction = classifier.predict([query])[0]
        click.echo(f"{prediction.label} {prediction.score:.4f}")
        return
    is_utf8 = sys.stdout is not None and codecs.lookup(sys.stdout.encoding).name == "utf-8"
    for text in texts(sys.stdin.buffer):
        prediction = classifier.predict([text])[0]
        answer = {"text": text, "label": prediction.label, "score": round(prediction.score, 4)}
        click.echo(json.dumps(answer, ensure_ascii=not is_utf8))  # JSON in any encoding
