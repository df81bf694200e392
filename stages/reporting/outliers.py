"""What became of the text that is known to be out of scope: outliers.json, as a table."""

import json
from pathlib import Path

from stages.reporting.markdown import table_of

FILE = Path("outliers.json")


def read() -> list[dict]:
    """A dict a file of text, empty where there is none."""
    return json.loads(FILE.read_text())


def markdown(accounts: list[dict]) -> str:
    """A row a file: what was read, kept and dropped, and the highest cosine that was kept."""
    reasons = list(accounts[0]["dropped"])
    columns = ["file", "weight", "lines", "for train", "for validation"]
    columns += [*(f"dropped: {reason}" for reason in reasons), "highest cosine"]
    rows = [
        [
            account["path"],
            f"{account['weight']:g}",
            *(f"{account[key]:,}" for key in ("read", "train", "validation")),
            *(f"{len(account['dropped'][reason]):,}" for reason in reasons),
            "–" if account["highest_cosine"] is None else f"{account['highest_cosine']:.2f}",
        ]
        for account in accounts
    ]
    return table_of(
        columns,
        rows,
        "Text that is known to be out of scope, which train and validation have beside the data's own. Test "
        "has none of it. Near validation or test is a cosine of 0.9 or more, near train one above the file's "
        "`max_similarity` to a query in scope. The highest cosine is that of a kept line to a query of "
        "validation or test. Cosines are those of the pretrained encoder.",
    )
