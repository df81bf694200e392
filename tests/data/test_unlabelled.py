import json
import random
from collections import Counter

import pytest
from conftest import word_tokenizer
from packages import install

from stages.core.errors import UserError
from stages.core.settings import Unlabelled
from stages.data import unlabelled

QUERIES = {
    "train": ["send money to my car", "rent a car", "balance"],
    "validation": ["my balance"],
    "test": ["money in a car"],
}


def load(seed=0, **settings):
    files = settings.get("files", ["."])
    params = Unlabelled(files_path=files[0], **settings)
    return unlabelled.load(params, QUERIES, word_tokenizer(), 16, seed)


def write(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_nothing_by_default():
    assert load() == []


def test_files_without_queries_of_the_data_and_each_text_once(tmp_path):
    """As the tokenizer reads them, in any case and with any spaces."""
    lines = ["Rent  a CAR", "my w20 ", "", "my balance", "w30 to", "MONEY in a car", "MY W20", "to"]
    assert load(files=[write(tmp_path / "logs.txt", *lines)]) == ["my w20", "w30 to", "to"]


def test_a_folder_of_files(tmp_path):
    write(tmp_path / "b.txt", "w21")
    write(tmp_path / "a.log", "w20")
    write(tmp_path / ".hidden", "w22")
    assert load(files=[str(tmp_path)]) == ["w20", "w21"]


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path):
    path = write(tmp_path / "logs.txt", *(f"w{i}" for i in range(20, 60)))
    drawn = load(files=[path], limit=10)
    assert drawn == load(files=[path], limit=10) != load(seed=1, files=[path], limit=10)
    assert len(drawn) == 10 and drawn == sorted(drawn)
    assert len(load(files=[path], limit=100)) == 40


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.txt", None, r"nowhere.txt cannot be read \(No such file .*: correct data.unlabelled.files"),
        ("logs.txt", b"caf\xe9", "logs.txt, line 1: byte 4 of the file, 0xe9, is not UTF-8"),
        ("logs.txt", b"Balance\nrent a car", "each of its texts is a query of the data: name others"),
        ("logs.txt", b"\n\n", "each of its texts is a query"),
    ],
)
def test_files_that_give_no_text(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(files=[str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_chit_chat(tmp_path, monkeypatch):
    texts = ["Hi", "rent a car", "I like it a lot ☕", "I like it a lot ☕", "so " * 20, "so " * 21, "a b c"]
    turns = [[{"text": text, "sender": "x"} for text in texts[:3]], [{"text": text} for text in texts[3:]]]
    content = json.dumps({"1": {"messages": turns}, "2": {"messages": []}}, ensure_ascii=False).encode()
    install(tmp_path, "chitchat-dataset", {"chitchat_dataset/dataset.json": content})
    monkeypatch.syspath_prepend(tmp_path)
    everything = ["rent a car", "I like it a lot ☕", ("so " * 20).strip(), "a b c"]
    assert unlabelled.chitchat() == everything
    assert load(chitchat=100) == everything[1:]
    assert len(load(chitchat=2)) in (1, 2)  # one of them may be a query of the data


def test_the_package_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(UserError) as caught:
        unlabelled.chitchat()
    assert str(caught.value) == (
        "the package 'chitchat-dataset' is not installed: pip install -e '.[transfer]'"
    )


def edits(before, after):
    """The words left out and added, as multisets."""
    before, after = Counter(before.split()), Counter(after.split())
    return sum((before - after).values()), sum((after - before).values())


def test_changed_queries():
    """Each kind occurs, and none does more than it says."""
    query, other = "one two three four five", "a b c d"
    kinds = Counter()
    for seed in range(300):
        text = unlabelled.change(query, [other], random.Random(seed))
        words = text.split()
        if text == "one two three c d":
            kinds["joined"] += 1
        elif edits(query, text) == (1, 0):
            kinds["dropped"] += 1
        elif edits(query, text) == (0, 0):
            kinds["swapped"] += 1
            moved = [i for i, word in enumerate(query.split()) if words[i] != word]
            assert len(moved) == 2 and moved[1] == moved[0] + 1
        else:
            kinds["mistyped"] += 1
            assert edits(query, text) == (1, 1) and abs(len(text) - len(query)) <= 1
    assert set(kinds) == {"joined", "dropped", "swapped", "mistyped"} and min(kinds.values()) > 30


def test_a_query_of_one_letter_is_changed_too():
    made = {unlabelled.change("a", ["b c"], random.Random(seed)) for seed in range(20)}
    assert made == {"aa", "a c"}


def test_each_training_query_is_changed_so_often():
    texts = load(changed=20)
    assert texts == load(changed=20) != load(seed=1, changed=20)
    assert 20 < len(texts) <= 60 and not {*texts} & {*QUERIES["train"]}
    assert not any("w" in text for text in texts)
