from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import word_tokenizer

from stages.core.errors import UserError
from stages.core.settings import FilesData, Pretrained
from stages.data import outliers

ROOT = Path(__file__).parents[2]
CONF = yaml.safe_load((ROOT / "conf/data/files.yaml").read_text())
TEACHER = Pretrained(source="hub", model="nowhere", sha256=None)
QUERIES = {
    "train": [("send money", "transfer"), ("my balance", "balance"), ("rent a car", "oos")],
    "validation": [("send w40", "transfer")],
    "test": [("my w41", "balance"), ("car w42", "oos")],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(name, content, column="text"):
    Path(name).write_text(content, encoding="utf-8")
    return list(outliers.read(Path(name), column).itertuples(index=False, name=None))


def test_the_layouts():
    def of_one_list(name):
        return [("yes", name), ("who won, and why", name), ("12", name)]

    assert read("a.txt", "yes\n\nwho won, and why\r\n12") == of_one_list("a.txt")
    assert read("a.yaml", "- yes\n- who won, and why\n- 12\n") == of_one_list("a.yaml")
    assert read("a.csv", 'id,text\n1,yes\n2,"who won, and why"\n3,12\n') == of_one_list("a.csv")
    assert read("a.jsonl", '{"q": "yes"}\n{"q": "who won, and why"}\n{"q": 12}', "q") == of_one_list(
        "a.jsonl"
    )
    assert read("b.yml", "# near\nyes:\n  - no\n  - off\n'12': [\"null\"]\n") == [
        ("no", "yes"),
        ("off", "yes"),
        ("null", "12"),
    ]
    corpus = outliers.read(ROOT / "stages/data/sample/out_of_scope.yaml")
    assert len(corpus) > 400 and corpus["list"].nunique() == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "a: [1", "a.yaml is not YAML (while parsing a flow sequence"),
        ("a.yaml", "a: [x]\na: [y]", "a.yaml is not YAML ('a' stands twice): correct it"),
        ("a.yaml", "a: {b: [x]}", "a.yaml: a is no list of queries: write one on a line, after a hyphen"),
        ("a.yaml", "- [x]", "a.yaml: a.yaml is no list of queries"),
        ("a.yaml", "a: x", "a.yaml: a is no list of queries"),
        ("a.yaml", "a: [x, '']", "a.yaml, a, query 2: the text is empty"),
        ("a.csv", "query\nx\n", "a.csv has no column 'text'; it has 'query': set data.text_column"),
        ("a.pdf", "x", "a.pdf is none of .csv"),
    ],
)
def test_what_is_no_file_of_queries_is_one_line(name, content, message):
    with pytest.raises(UserError) as caught:
        read(name, content)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"^a.txt cannot be read \(No such file.*\): correct data.outliers$"):
        outliers.read(Path("a.txt"))


@pytest.mark.parametrize(
    ("sizes", "fraction", "chosen"),
    [([14] * 30, 0.1, 42), ([1, 2, 30], 0.25, 8), ([3], 0.0, 0), ([5], 0.9, 5)],
)
def test_held_out_of_each_list(sizes, fraction, chosen):
    lists = pd.Series(np.repeat([f"list {i}" for i in range(len(sizes))], sizes)).sample(
        frac=1, random_state=0
    )
    held_out = outliers.choose(lists.reset_index(drop=True), fraction, seed=0)
    assert held_out.sum() == chosen
    of_list = Counter(lists[held_out])
    for i, size in enumerate(sizes):
        assert abs(of_list[f"list {i}"] - fraction * size) < 1
    again, other = (outliers.choose(lists.reset_index(drop=True), fraction, seed) for seed in (0, 1))
    assert np.array_equal(again, held_out)
    assert np.array_equal(other, held_out) == (len({*held_out}) == 1)


def test_the_nearest():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(7, 4)), rng.normal(size=(5, 4))
    expected = [max(a @ b for b in theirs) for a in ours]
    np.testing.assert_allclose(outliers.nearest(ours, theirs, rows=3), expected)


VECTORS = {  # by the angle to the first axis, in degrees: cosines .91, .89, .71, .60, .26
    "send w40": 0, "my w41": 180, "car w42": 270, "send money": 120, "my balance": 170, "rent a car": 60,
    "near w1": 24, "far w2": 27, "far w3": 75, "w4": 45, "w5": 53.2,
}  # fmt: skip


@pytest.fixture
def embedded(monkeypatch):
    """The texts that are embedded, each as the VECTORS say."""
    from stages.checkpoints import sentences

    seen = []

    def embed(texts, teacher, tokenizer, max_length):
        assert (teacher, max_length) == (TEACHER, 64)
        seen.extend(texts)
        angles = np.radians([VECTORS[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    monkeypatch.setattr(sentences, "embed", embed)
    return seen


def add(*files, seed=0):
    queries = {
        split: pd.DataFrame(rows, columns=["text", "intent"]).assign(
            **({"weight": 3.0} if split == "train" else {})
        )
        for split, rows in QUERIES.items()
    }
    data = FilesData(**CONF | {"outliers": list(files), "outliers_path": "."})
    return outliers.add(queries, data, TEACHER, word_tokenizer(), seed)


def test_what_is_kept_and_what_is_dropped(embedded):
    """Equal texts, as the tokenizer reads them, are dropped without a look at their vectors."""
    Path("a.txt").write_text("Send  w40\nSEND money\nrent a car\nnear w1\nfar w2\nfar w3\nFAR w2\n")
    splits, (account,) = add({"path": "a.txt", "held_out": 0.0, "weight": 2.0})
    assert embedded == ["near w1", "far w2", "far w3", "send w40", "my w41", "car w42"]
    assert list(splits["train"].itertuples(index=False, name=None)) == [
        *((*row, 3.0) for row in QUERIES["train"]),
        ("far w2", "oos", 2.0),
        ("far w3", "oos", 2.0),
    ]
    for split in ("validation", "test"):
        assert list(splits[split].itertuples(index=False, name=None)) == QUERIES[split]
    assert account == {
        "path": "a.txt",
        "weight": 2.0,
        "read": 7,
        "train": 2,
        "validation": 0,
        "highest_cosine": pytest.approx(np.cos(np.radians(27)), abs=1e-4),
        "dropped": {
            "in validation or test": ["Send  w40"],
            "near validation or test": ["near w1"],
            "in train": ["SEND money", "rent a car"],
            "near train": [],
            "repeated": ["FAR w2"],
        },
    }
    assert outliers.line(account) == (
        "a.txt: 7 lines read, 2 for train, 0 for validation, 5 dropped: 1 in validation or test, 1 near "
        "validation or test, 2 in train, 1 repeated"
    )


def test_max_similarity_is_to_what_is_in_scope(embedded):
    """75° is 45° from a query in scope and 15° from one out of it; 45° is 75° from one in scope."""
    Path("a.txt").write_text("far w3\nw4\n")
    Path("b.txt").write_text("w5\nfar w2\n")
    files = {"path": "a.txt", "max_similarity": 0.6}, {"path": "b.txt", "held_out": 0.5}
    splits, (first, second) = add(*files)
    assert "send money" in embedded and "rent a car" not in embedded
    assert first["dropped"]["near train"] == ["far w3"] and first["train"] == 1
    assert (second["train"], second["validation"]) == (1, 1)
    assert not any(second["dropped"].values())
    assert splits["validation"]["intent"].tolist() == ["transfer", "oos"]
    assert list(splits["validation"]) == ["text", "intent"]
    assert splits["train"]["weight"].tolist() == [3.0, 3.0, 3.0, 1.0, 1.0]


def test_nothing_is_embedded_where_nothing_is_left(monkeypatch):
    Path("a.txt").write_text("send money\n")
    Path("b.txt").write_text("")
    splits, accounts = add({"path": "a.txt"}, {"path": "b.txt"})
    assert [account["read"] for account in accounts] == [1, 0]
    assert accounts[0]["highest_cosine"] is None and len(splits["train"]) == 3
