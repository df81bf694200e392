"""The page as `intents explore` serves it: with models to ask, and commits to compare."""

import subprocess
from pathlib import Path

import pandas as pd
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from stages.commands import changes
from stages.core import settings
from stages.core.errors import UserError
from stages.page import content, html
from stages.page.ask import Models
from stages.reporting import summary

MOST_CHARACTERS = 2000


def recipe(folder: Path, p: settings.Params) -> tuple[settings.Variants | None, str]:
    """The variants of a report, if conf/ has its experiment, and the command that makes its models."""
    if folder == Path(p.report.folder):
        return p.variants, "dvc repro"
    if not Path("conf/experiment", f"{folder.name}.yaml").exists():
        return None, "dvc repro"
    override = f"experiment={folder.name}"
    return settings.compose([override]).variants, f"dvc exp run -S {override}"


def commits(folder: Path) -> list[dict]:
    """The last commits that changed a report: `hash`, `day` and `subject`; none outside Git."""
    log = ["git", "log", "-30", "--format=%h%x09%cs%x09%s", "--", str(folder)]
    lines = subprocess.run(log, capture_output=True, text=True).stdout.splitlines()
    return [dict(zip(("hash", "day", "subject"), line.split("\t", 2), strict=True)) for line in lines]


def compare(folder: Path, base: str, head: str | None, gate: settings.Gate) -> list[dict]:
    """What `intents compare` says of a report: `model`, `measure`, `before`, `after`, `verdict`."""
    other = changes.commit(head) if head else None
    rows = changes.collect(folder, changes.commit(base), gate, other)
    shown = rows.to_dict("records")
    for row in shown:
        for side in ("before", "after"):
            row[side] = None if pd.isna(row[side]) else changes.MEASURES[row["measure"]](row[side])
    return shown


def app(folder: Path, p: settings.Params) -> Starlette:
    """The page of a report, read anew each time it is loaded; a UserError, if it cannot be read."""
    summary.read(folder)
    variants, make = recipe(folder, p)
    models = Models()

    def page() -> str:
        live = {"models": models.names(), "commits": commits(folder)}
        return html.write(content.collect(folder, variants, make), live)

    async def show(request: Request) -> Response:
        try:
            return HTMLResponse(await run_in_threadpool(page))
        except UserError as error:
            return Response(f"error: {error}\n", 500, media_type="text/plain")

    async def ask(request: Request) -> Response:
        try:
            asked = await request.json()
            text, model = str(asked["text"])[:MOST_CHARACTERS], str(asked["model"])
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": 'send {"text": ..., "model": ...}'}, 400)
        try:
            return JSONResponse(await run_in_threadpool(models.answer, model, text))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 404)

    async def changed(request: Request) -> Response:
        base, head = (request.query_params.get(side) for side in ("base", "head"))
        try:
            return JSONResponse(await run_in_threadpool(compare, folder, base or "HEAD", head, p.gate))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)

    routes = [Route("/", show), Route("/ask", ask, methods=["POST"]), Route("/changes", changed)]
    # Another site's page, by way of a name that resolves to this machine, gets no answer.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])
