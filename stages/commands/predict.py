"""Name the intent of queries."""

import json
import sys
from pathlib import Path

import click

from stages.commands import warn_if_uncalibrated
from stages.core.errors import UserError


@click.command
@click.option("--model", type=click.Path(path_type=Path), required=True, help="A model folder.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the model.")
@click.argument("query", required=False)
def command(model: Path, threads: int, query: str | None):
    """Name the intent of a query, or of lines of input.

    A QUERY gives its label and score. Lines of standard input give a JSON object each, as they come.
    Models in calibrated/ know when a query is out of scope.

    \b
    intents predict --model calibrated/distilled-ort-int8 "I'd like to rent a vehicle in Paris"
    intents predict --model calibrated/distilled-ort-int8 < queries.txt
    """
    if query is not None and not query.strip():
        raise UserError("the query is empty: give a text with at least one word")
    from stages import runtime

    classifier = runtime.load(model, threads)
    warn_if_uncalibrated(model)
    if query is not None:
        prediction = classifier.predict([query])[0]
        click.echo(f"{prediction.label} {prediction.score:.4f}")
        return
    try:
        for line in sys.stdin.buffer:  # as bytes, which are UTF-8 whatever the locale
            if text := line.decode().strip():
                prediction = classifier.predict([text])[0]
                answer = {"text": text, "label": prediction.label, "score": round(prediction.score, 4)}
                click.echo(json.dumps(answer, ensure_ascii=False))
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 ({error}): convert it, e.g. with iconv") from None
