"""Serve a model over HTTP.

    python -m stages.service --model calibrated/distilled-ort-int8 --port 8000
    curl localhost:8000/predict -d '{"text": "what is my balance"}'

POST /predict answers {"text": ...} with {"label", "score"}, and {"texts": [...]} with {"predictions"};
GET /health says whether a worker is ready; GET /metrics is for Prometheus. SIGTERM or Ctrl-C ends it
once all that was accepted is answered.
"""

import argparse
import os
from pathlib import Path

from stages.errors import UserError, command
from stages.model_folder import label_names


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m stages.service",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: this machine)"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: one a core)")
    parser.add_argument("--queue", type=int, default=256, help="texts that may wait (default: 256)")
    parser.add_argument("--cache", type=int, default=0, help="answers to keep (default: none)")
    arguments = parser.parse_args(argv)
    for name, least in (("port", 0), ("workers", 1), ("queue", 1), ("cache", 0)):
        if (value := getattr(arguments, name)) < least:
            raise UserError(f"--{name} is {value}: it should be {least} or more")
    if arguments.port > 65535:
        raise UserError(f"--port is {arguments.port}: it should be 65535 or less")
    label_names(arguments.model)  # a clear error where there is no model

    import uvicorn

    from stages.serving.service import ANSWER_SECONDS, BODY_SECONDS, Service

    service = Service(arguments.model, arguments.workers, arguments.queue, arguments.cache)
    uvicorn.run(
        service.app(),
        host=arguments.host,
        port=arguments.port,
        access_log=False,
        timeout_graceful_shutdown=ANSWER_SECONDS + BODY_SECONDS,
    )


if __name__ == "__main__":
    main()
