"""Texts that stand more than once, within a split or in two."""

from typing import Literal

import pandas as pd
from tokenizers import Tokenizer

from stages.core.errors import UserError
from stages.data.tokenizer import normalized

# Of a text in two splits, the row of the first of them stays.
ORDER = ("test", "validation", "train")


def drop(
    tables: dict[str, pd.DataFrame],
    tokenizer: Tokenizer,
    max_length: int,
    duplicates: Literal["error", "drop", "first"],
) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """The splits with each text once, and how many rows were dropped, by reason.

    Two texts are the same if the tokenizer makes the same of them. Rows of test are never dropped. A
    UserError names two rows of one text: of two intents unless `duplicates` is "first", any if it is "error".
    """
    rows = pd.concat(
        [tables[split].assign(split=split, place=tables[split].index) for split in ORDER if split in tables],
        ignore_index=True,
    )
    rows["words"] = normalized(rows["text"].tolist(), tokenizer, max_length)
    kept = rows.groupby("words")[["split", "intent", "place"]].transform("first")
    copies = rows["words"].duplicated()
    conflicts = copies & (rows["intent"] != kept["intent"])
    if duplicates == "error" and copies.any():
        raise UserError(
            f"{_pair(rows, kept, copies)}; {copies.sum()} rows repeat another so: remove them, or set "
            "data.duplicates=drop"
        )
    if duplicates == "drop" and conflicts.any():
        row = conflicts.idxmax()
        raise UserError(
            f"{_pair(rows, kept, conflicts)}, and have the intents {kept['intent'][row]!r} and "
            f"{rows['intent'][row]!r}; {conflicts.sum()} rows contradict another so: correct or remove them, "
            "or set data.duplicates=first to keep the first of each, in test before validation before train"
        )
    dropped = copies & (rows["split"] != "test")
    reasons = "of " + rows["split"] + " that " + kept["split"] + " has "
    reasons += conflicts.map({True: "with another intent", False: "already"})
    rows = rows[~dropped]
    return (
        {
            split: rows.loc[rows["split"] == split, ["text", "intent"]].reset_index(drop=True)
            for split in tables
        },
        reasons[dropped].value_counts(sort=False).to_dict(),
    )


def account(read: dict[str, pd.DataFrame], dropped: dict[str, int]) -> str:
    """One line: the rows read, used and dropped, and why; and how many texts have several lines."""
    rows = sum(map(len, read.values()))
    line = f"{rows:,} rows read, {rows - sum(dropped.values()):,} used"
    if dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        line += f", {sum(dropped.values()):,} dropped: {reasons}"
    texts = pd.concat([table["text"] for table in read.values()]).str.strip()
    long = texts[texts.str.contains("[\r\n]")]
    if len(long):
        line += f"; {len(long):,} texts of several lines, the first at {long.index[0]}"
    return line


def read_alike(tables: dict[str, pd.DataFrame], tokenizer: Tokenizer, max_length: int) -> int:
    """How many queries have the tokens of one with another intent, such as 👍 and 👎 to most vocabularies."""
    tokenizer.enable_truncation(max_length)
    queries = pd.concat(tables.values(), ignore_index=True)
    queries["ids"] = [str(encoding.ids) for encoding in tokenizer.encode_batch(queries["text"].tolist())]
    return int((queries.groupby("ids")["intent"].transform("nunique") > 1).sum())


def _pair(rows: pd.DataFrame, kept: pd.DataFrame, which: pd.Series) -> str:
    row = which.idxmax()
    return (
        f"{rows['place'][row]} ({rows['text'][row][:60]!r}) and {kept['place'][row]} are one text to the "
        "teacher's tokenizer"
    )
