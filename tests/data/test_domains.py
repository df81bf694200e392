import json
from pathlib import Path

import pytest
import yaml

from stages.core.settings import Clinc150Data, FilesData, SampleData
from stages.data import domains, sample

ROOT = Path(__file__).parents[2]


def data(source, kind, **changes):
    return kind(**(yaml.safe_load((ROOT / f"conf/data/{source}.yaml").read_text()) | changes))


SAMPLE = data("sample", SampleData, path=str(ROOT / "stages/data/sample"))
CLINC150 = data("clinc150", Clinc150Data, path=str(ROOT / "stages/data/clinc150.json"))


def sample_intents():
    return {intent for table in sample.load(SAMPLE, seed=0).values() for intent in table["intent"]}


def clinc150_intents():
    return set(json.loads(Path(CLINC150.path).read_text())["labels"])


@pytest.mark.parametrize(
    ("source", "intents"),
    [(SAMPLE, sample_intents), (CLINC150, clinc150_intents)],
    ids=["sample", "clinc150"],
)
def test_every_intent_is_in_one_domain(source, intents):
    found = domains.of(source)
    assert len(found) == 10
    listed = [intent for names in found.values() for intent in names]
    assert sorted(listed) == sorted(intents() - {"oos"})


def test_both_sources_have_the_same_domains():
    assert set(domains.of(SAMPLE)) == set(domains.of(CLINC150))
    assert {len(intents) for intents in domains.of(CLINC150).values()} == {15}


def test_sources_without_domains(tmp_path):
    assert domains.of(data("files", FilesData)) == {}
    (tmp_path / "known.json").write_text(json.dumps({"sha256": "", "labels": []}))
    assert domains.of(data("clinc150", Clinc150Data, path=str(tmp_path / "known.json"))) == {}


def test_written_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for made in ({"banking": ["balance", "transfer"], "travel": []}, {}):
        domains.write(made)
        assert domains.read() == made
    assert [path.name for path in tmp_path.iterdir()] == ["domains.json"]
