"""One HTML file with its style, scripts and content inside: it needs no network and no other file."""

import re
from html import escape
from pathlib import Path

from stages.page.content import as_json

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("common.js", "frontier.js", "threshold.js", "mistakes.js", "ask.js", "runs.js", "main.js")


def write(content: dict, live: dict | None = None) -> str:
    """The page that shows `content`, and what is `live`: `models` to ask, and `commits`."""
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    scripts = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "title": escape(content["report"]),
        "style": (ASSETS / "style.css").read_text(encoding="utf-8"),
        "content": as_json({**content, "live": live}),
        "script": scripts,
    }
    return re.sub(r"\{(title|style|content|script)\}", lambda match: parts[match[1]], page)
