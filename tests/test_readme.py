"""The documents are true: their links lead somewhere, and the README's numbers are those of the reports."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from stages.commands import headline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", ".git", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
]
CLINC150 = ROOT / "metrics" / "clinc150"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_readme_is_one_screen():
    assert len(README.encode()) <= 9000


def test_the_readmes_rows_are_those_of_the_report():
    folder = CLINC150.with_name("clinc150-quick")
    results = pd.read_csv(folder / "tables" / "results.csv", index_col="model")
    rows = re.findall(
        r"^\| \**([a-z0-9-]+)\** \| ([0-9.]+)% \| ([0-9.]+) \| ([0-9.]+) \| ×([0-9.]+) \|$", README, re.M
    )
    assert len(rows) == 5
    for name, *cells in rows:
        row = results.loc[name]
        accuracy, size, latency, speedup = (float(cell) for cell in cells)
        assert accuracy == pytest.approx(100 * row["accuracy_calibrated"], abs=0.051)
        assert size == pytest.approx(row["size_mb"], abs=0.051)
        assert latency == pytest.approx(row["latency_mean_ms"], abs=0.0051)
        assert speedup == pytest.approx(row["speedup_over_bert_base"], abs=0.51)


def test_the_readmes_headline_is_that_of_the_report():
    """Until `intents seeds` has made it, there is nothing between its marks."""
    file = CLINC150 / "headline.json"
    marked = "<!-- headline of metrics/clinc150 -->\n<!-- end of headline -->\n"
    if file.exists():
        table = headline.markdown(json.loads(file.read_text()), "metrics/clinc150")
        marked = headline.between_marks(marked, "metrics/clinc150", table)
    assert README.count(marked) == 1


def test_no_request_was_lost_on_clinc150():
    service = json.loads((CLINC150 / "tables" / "load_test.json").read_text())["service"]
    assert (service["requests"], service["lost"], service["wrong"]) == (100_000, 0, 0)
