"""What a person sees of the service: its model answers what is typed, and the interface is described."""

import json
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from stages import checkpoints
from stages.serving import openapi
from stages.serving.options import Limits

# What a browser may load and connect to: this service, and nothing else.
POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data:"
DOCS = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Interface</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", validatorUrl: null});</script>
</body>
</html>
"""


def ask(folder: Path) -> str:
    """The page that asks the model in `folder`."""
    checkpoint = checkpoints.read(folder)
    threshold = (checkpoint.calibration or {}).get("threshold")
    out_of_scope = checkpoint.labels[threshold["out_of_scope"]] if threshold else None
    page = Path(__file__).with_name("ask.html").read_text(encoding="utf-8")
    label = json.dumps(out_of_scope).replace("<", "\\u003c")
    return page.replace("{model}", escape(folder.resolve().name)).replace("{out_of_scope}", label)


def routes(folder: Path, limits: Limits) -> list[BaseRoute]:
    """GET / asks the model in `folder`, /docs shows /openapi.json; all that they load is served here."""
    pages = {"/": ask(folder), "/docs": DOCS}

    async def show(request: Request) -> Response:
        return HTMLResponse(pages[request.url.path], headers={"Content-Security-Policy": POLICY})

    async def described(request: Request) -> Response:
        return JSONResponse(openapi.document(limits))

    return [
        *(Route(path, show) for path in pages),
        Route("/openapi.json", described),
        Mount("/docs", StaticFiles(directory=swagger_ui_path)),
    ]
