"""Name the intent of a query, with any model folder.

    python -m stages.predict --model calibrated/distilled-ort-int8 "I'd like to rent a vehicle in Paris"
    python -m stages.predict --model calibrated/distilled-ort-int8 < queries.txt

A query as argument gives its label and score; lines on standard input give a JSON object each,
as they come.
"""

import argparse
import json
import sys

from stages import runtime
from stages.errors import UserError, command


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m stages.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="a model folder, calibrated/<name> or models/<name>")
    parser.add_argument("--threads", type=int, default=1, help="threads for the model (default: 1)")
    parser.add_argument("query", nargs="?", help="one query; without it, standard input is read")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1:
        raise UserError(f"--threads is {arguments.threads}: it should be 1 or more")
    if arguments.query is not None and not arguments.query.strip():
        raise UserError("the query is empty: give a text with at least one word")

    classifier = runtime.load(arguments.model, arguments.threads)
    if arguments.query is not None:
        prediction = classifier.predict([arguments.query])[0]
        print(f"{prediction.label} {prediction.score:.4f}")
        return
    try:
        for line in sys.stdin:
            text = line.strip()
            if text:
                prediction = classifier.predict([text])[0]
                answer = {"text": text, "label": prediction.label, "score": round(prediction.score, 4)}
                print(json.dumps(answer, ensure_ascii=False), flush=True)
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 ({error}): convert it, e.g. with iconv") from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader has left; nothing more to say


if __name__ == "__main__":
    main()
