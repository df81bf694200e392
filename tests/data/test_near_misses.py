"""The near misses of CLINC150 as a data set of their own."""

import json
from pathlib import Path

import pytest
import yaml

DATA = Path(__file__).parents[2] / "stages/data"
FILE = DATA / "near_misses/clinc150.yaml"
INTENTS = {*json.loads((DATA / "clinc150.json").read_text())["labels"]} - {"oos"}


@pytest.fixture(scope="module")
def near_misses():
    return yaml.safe_load(FILE.read_text("utf-8"))


def test_every_intent_has_thirteen_and_no_other_has_any(near_misses):
    assert set(near_misses) == INTENTS and list(near_misses) == sorted(near_misses)
    assert min(map(len, near_misses.values())) >= 13


def test_each_is_a_query_of_its_own_in_lower_case(near_misses):
    queries = [query for near in near_misses.values() for query in near]
    assert len({*queries}) == len(queries) >= 2000
    for query in queries:
        assert isinstance(query, str) and query == " ".join(query.lower().split())
        assert 3 <= len(query.split()) <= 25, query


def test_the_header_counts_them_and_gives_the_licence(near_misses):
    header = FILE.read_text("utf-8").split("\naccept_reservations:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"{sum(map(len, near_misses.values())):,} queries" in header and "CC BY 4.0" in header
