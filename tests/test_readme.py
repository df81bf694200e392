"""The documents are true: their links lead somewhere, and the README's numbers are those of the reports."""

import json
import re
from pathlib import Path

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


def test_the_readmes_headline_is_that_of_the_report():
    marks = "<!-- headline of metrics/clinc150 -->\n<!-- end of headline -->\n"
    table = headline.markdown(json.loads((CLINC150 / "headline.json").read_text()), "metrics/clinc150")
    assert README.count(headline.between_marks(marks, "metrics/clinc150", table)) == 1


def test_workers_lost_no_request_on_clinc150():
    """A process that runs the model itself loses what it had accepted; none of them answers wrongly."""
    service = json.loads((CLINC150 / "tables" / "load_test.json").read_text())["service"]
    for soak in service.values():
        assert (soak["requests"], soak["killed"], soak["wrong"]) == (100_000, 1, 0)
    assert service["workers"]["lost"] == 0
