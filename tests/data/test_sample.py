import itertools
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import UserError
from stages.core.settings import SampleData
from stages.data import sample

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "stages/data/sample"
DOMAINS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted(CORPUS.glob("*.yaml"))
    if path.stem != "out_of_scope"
}
TEMPLATES = [
    (intent, template, domain["slots"])
    for domain in DOMAINS.values()
    for intent, templates in domain["intents"].items()
    for template in templates
]


def load(seed=0, **changes):
    values = yaml.safe_load((ROOT / "conf/data/sample.yaml").read_text())
    return sample.load(SampleData(**(values | {"path": str(CORPUS)} | changes)), seed)


@pytest.fixture(scope="module")
def queries():
    """All queries at seed 0, with their split."""
    return pd.concat(table.assign(split=name) for name, table in load().items())


def test_the_size_of_the_corpus(queries):
    intents = [intent for domain in DOMAINS.values() for intent in domain["intents"]]
    assert len(DOMAINS) == 10
    assert len(set(intents)) == len(intents) >= 40
    assert len(yaml.safe_load((CORPUS / "out_of_scope.yaml").read_text())) >= 300
    assert len(queries) >= 2500
    assert queries["text"].is_unique
    for domain in DOMAINS.values():
        for intent, templates in domain["intents"].items():
            assert 45 <= len(set(templates)) == len(templates) <= 50, intent


@pytest.mark.parametrize("name", DOMAINS)
def test_slots_are_defined_and_used(name):
    domain = DOMAINS[name]
    used = {
        slot for templates in domain["intents"].values() for t in templates for slot in sample.SLOT.findall(t)
    }
    assert used == set(domain["slots"])
    assert all(len(set(values)) == len(values) > 1 for values in domain["slots"].values())


def test_queries_are_plain_text(queries):
    assert not queries["text"].str.contains(r"[{}]|^\s|\s$|\s\s", regex=True).any()


def test_every_intent_in_every_split_in_proportion(queries):
    counts = queries.pivot_table(index="intent", columns="split", values="text", aggfunc="count")
    assert counts.notna().all(axis=None)
    assert "oos" in counts.index
    shares = counts.div(counts.sum(axis=1), axis=0)
    assert shares["test"].between(0.19, 0.21).all()
    assert shares["validation"].between(0.13, 0.17).all()


def test_no_template_is_shared_by_two_splits(queries):
    split_of = dict(zip(queries["text"], queries["split"], strict=True))
    intent_of = dict(zip(queries["text"], queries["intent"], strict=True))
    explained = set()
    for intent, template, slots in TEMPLATES:
        made = [text for text in sample.fill(template, slots) if text in split_of]
        assert len(made) == 1, template
        assert len({split_of[text] for text in made}) == 1, template
        assert {intent_of[text] for text in made} == {intent}, template
        explained |= set(made)
    assert explained == set(queries["text"][queries["intent"] != "oos"])


def test_queries_per_template(queries):
    oos = (queries["intent"] == "oos").sum()
    assert len(queries) == len(TEMPLATES) + oos
    three = pd.concat(load(queries_per_template=3).values())
    assert len(three) == oos + sum(min(3, len(set(sample.fill(t, slots)))) for _, t, slots in TEMPLATES)


@pytest.mark.parametrize("name", ["other", None])
def test_the_name_of_out_of_scope(queries, name):
    for split, table in load(out_of_scope=name).items():
        usual = queries[queries["split"] == split]
        assert "oos" not in set(table["intent"])
        assert (table["intent"] == name).sum() == (0 if name is None else (usual["intent"] == "oos").sum())
        assert (table["intent"] != name).sum() == (usual["intent"] != "oos").sum()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("slots: {day: [1", "ParserError"),
        ("slots: {day: [monday]}\nintents: {book: ['book {month}']}", "KeyError: 'month'"),
        ("slots: {day: [monday]}", "KeyError: 'intents'"),
        ("intents: {book: [a], ask: [b], book: [c]}", "ValueError: 'book' stands twice"),
        ("- a\n- b", "TypeError"),
        ("", "TypeError"),
    ],
)
def test_a_broken_corpus_is_one_line(tmp_path, content, words):
    (tmp_path / "domain.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        load(path=str(tmp_path))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/domain.yaml is not in the corpus's layout ({words}")
    assert line.endswith("it needs templates under intents, and a list under slots for each {slot}")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("hello", ["hello"]),
        ("book {day}", ["book mon", "book tue"]),
        ("{day} at {hour}", ["mon at 1", "mon at 2", "tue at 1", "tue at 2"]),
        ("{day}, yes {day}", ["mon, yes mon", "tue, yes tue"]),
    ],
)
def test_fill(template, expected):
    assert sample.fill(template, {"day": ["mon", "tue"], "hour": ["1", "2"]}) == expected


@settings(database=None, max_examples=60)
@given(
    parts=st.lists(st.sampled_from(["{a}", "{b}", "{c}", "u", "v ", "?"]), max_size=6),
    slots=st.fixed_dictionaries(
        {name: st.lists(st.text("xyz '", min_size=1), min_size=1, max_size=3, unique=True) for name in "abc"}
    ),
)
def test_fill_is_the_product_of_its_slots(parts, slots):
    template = "".join(parts)
    expected = {
        template.replace("{a}", a).replace("{b}", b).replace("{c}", c)
        for a, b, c in itertools.product(*(slots[name] for name in "abc"))
    }
    filled = sample.fill(template, slots)
    assert set(filled) == expected
    sizes = [len(slots[name]) for name in "abc" if f"{{{name}}}" in template]
    assert len(filled) == len(list(itertools.product(*map(range, sizes))))


def test_a_bag_of_words_is_clearly_below_the_teacher():
    """The corpus is hard enough that models differ on it: by 15 points at least."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    splits = load()
    bag = make_pipeline(TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True), LinearSVC())
    bag.fit(splits["train"]["text"], splits["train"]["intent"])
    accuracy = bag.score(splits["test"]["text"], splits["test"]["intent"])
    results = pd.read_csv(ROOT / "metrics" / "sample" / "tables" / "results.csv", index_col="model")
    teacher = results["accuracy"]["teacher"]
    assert 0.3 < accuracy < teacher - 0.15
