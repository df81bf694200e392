"""Tables in Markdown."""

from collections.abc import Iterable, Sequence

import pandas as pd


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]], *paragraphs: str, left: int = 1) -> str:
    """A table, its first `left` columns set to the left and the rest to the right, and what is said below."""
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    lines.insert(1, f"|{'|'.join(rule)}|")
    for paragraph in paragraphs:
        lines += ["", paragraph]
    return "\n".join([*lines, ""])


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or pd.isna(value) else f"{100 * value:.{digits}f}%"
