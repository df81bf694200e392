"""Stage `explore`: the results as one page to look at, report.html."""

from pathlib import Path

from stages.core import settings
from stages.core.errors import command


@command
def main():
    p = settings.load()
    from stages.core.atomic import write_text
    from stages.page import content, html

    shown = content.collect(Path(p.report.folder), p.variants, "dvc repro")
    write_text("report.html", html.write(shown))


if __name__ == "__main__":
    main()
