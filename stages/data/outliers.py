"""Text that is known to be out of scope, beside the data's own, and outliers.json, which accounts for it."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from tokenizers import Tokenizer

from stages.core.atomic import write_json
from stages.core.errors import UserError
from stages.core.settings import Data, Outliers, Pretrained, TableData
from stages.data import formats, sample
from stages.data.tokenizer import normalized

FILE = Path("outliers.json")
# The cosine from which on a line is as good as a query of validation or test.
LEAK = 0.9
# Why a line is dropped.
REASONS = ("in validation or test", "near validation or test", "in train", "near train", "repeated")


class Loader(sample.Loader):
    """Every scalar is a text: `yes` and `12` are queries."""


Loader.yaml_implicit_resolvers = {}


def add(
    queries: dict[str, pd.DataFrame], params: Data, teacher: Pretrained, tokenizer: Tokenizer, seed: int
) -> tuple[dict[str, pd.DataFrame], list[dict]]:
    """The splits with the lines of `params.outliers` in train and validation, and an account of each file.

    The lines get the out-of-scope label and, in train, the `weight` of their file. `held_out` of each list
    goes to validation, drawn by `seed`. A line is dropped if it is, as the tokenizer reads it, a query of the
    data or a line before it; if its cosine to a query of validation or test is LEAK or more; and if that to
    a training query in scope is above `max_similarity`. Cosines are those of `teacher`, before it is trained.
    """
    column = params.text_column if isinstance(params, TableData) else "text"
    files = [read(Path(file.path), column).assign(file=i) for i, file in enumerate(params.outliers)]
    lines = pd.concat(files, ignore_index=True)
    lines["max_similarity"] = lines["file"].map([file.max_similarity for file in params.outliers].__getitem__)
    _judge(lines, queries, params, teacher, tokenizer)
    lines["split"] = lines["dropped"].map(lambda reason: "" if reason else "train")
    for i, file in enumerate(params.outliers):
        kept = lines.index[(lines["file"] == i) & (lines["split"] == "train")]
        lines.loc[kept[choose(lines.loc[kept, "list"], file.held_out, seed)], "split"] = "validation"
    rows = lines.assign(
        intent=params.out_of_scope, weight=lines["file"].map([f.weight for f in params.outliers].__getitem__)
    )
    added = {
        split: pd.concat([table, rows.loc[rows["split"] == split, table.columns]], ignore_index=True)
        for split, table in queries.items()
    }
    return added, [_account(file, lines[lines["file"] == i]) for i, file in enumerate(params.outliers)]


def _judge(
    lines: pd.DataFrame,
    queries: dict[str, pd.DataFrame],
    params: Data,
    teacher: Pretrained,
    tokenizer: Tokenizer,
) -> None:
    """Say of the `lines`, in two columns, why one is `dropped` ("" if it is kept), and its `cosine`.

    That is the highest to a query of validation or test.
    """
    lines["dropped"], lines["cosine"] = "", np.nan

    def drop(which: pd.Series, reason: str) -> None:
        lines.loc[which & (lines["dropped"] == ""), "dropped"] = reason

    def words(texts: pd.Series) -> pd.Series:
        return pd.Series(normalized(texts.tolist(), tokenizer, params.max_length), texts.index, dtype=object)

    held_out = pd.concat([queries["validation"]["text"], queries["test"]["text"]], ignore_index=True)
    train = queries["train"]
    of_lines = words(lines["text"])
    drop(of_lines.isin(words(held_out)), "in validation or test")
    drop(of_lines.isin(words(train["text"])), "in train")
    drop(of_lines.duplicated(), "repeated")
    left = lines[lines["dropped"] == ""]
    if left.empty:
        return
    from stages.checkpoints import sentences

    in_scope = train.loc[train["intent"] != params.out_of_scope, "text"]
    if left["max_similarity"].isna().all():
        in_scope = in_scope[:0]
    texts = [*left["text"], *held_out, *in_scope]
    vectors = sentences.embed(texts, teacher, tokenizer, params.max_length)
    ours, theirs, known = np.split(vectors, [len(left), len(left) + len(held_out)])
    lines.loc[left.index, "cosine"] = nearest(ours, theirs)
    drop(lines["cosine"] >= LEAK, "near validation or test")
    if len(in_scope):
        similarity = pd.Series(nearest(ours, known), left.index).reindex(lines.index)
        drop(similarity > lines["max_similarity"], "near train")


def _account(file: Outliers, lines: pd.DataFrame) -> dict:
    highest = lines.loc[lines["dropped"] == "", "cosine"].max()
    return {
        "path": file.path,
        "weight": file.weight,
        "read": len(lines),
        **{split: int((lines["split"] == split).sum()) for split in ("train", "validation")},
        "highest_cosine": None if pd.isna(highest) else round(float(highest), 4),
        "dropped": {reason: lines.loc[lines["dropped"] == reason, "text"].tolist() for reason in REASONS},
    }


def read(path: Path, text_column: str = "text") -> pd.DataFrame:
    """The queries of a file, columns `text` and `list`: the name of the list that they stand in."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".yaml", ".yml"):
            rows = [
                (f"{path}, {name}, query {i}", text, name)
                for name, texts in _lists(path).items()
                for i, text in enumerate(texts, 1)
            ]
        elif suffix == ".txt":
            rows = [
                (f"{path}, line {i}", line, path.name)
                for i, line in enumerate(formats.decode(path).splitlines(), 1)
                if line.strip()
            ]
        else:
            table = formats.read(path, text_column, text_column)
            rows = [(place, text, path.name) for place, text in table["text"].items()]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct data.outliers") from None
    return formats.table(rows).rename(columns={"intent": "list"})


def _lists(path: Path) -> dict[str, list[str]]:
    try:
        content = yaml.load(formats.decode(path), Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())}): correct it") from None
    lists = content if isinstance(content, dict) else {path.name: content}
    for name, texts in lists.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}: {name} is no list of queries: write one on a line, after a hyphen")
    return lists


def nearest(ours: np.ndarray, theirs: np.ndarray, rows: int = 1024) -> np.ndarray:
    """The largest dot product of each row of `ours` with a row of `theirs`, both of shape (any, width)."""
    parts = [(ours[i : i + rows] @ theirs.T).max(1) for i in range(0, len(ours), rows)]
    return np.concatenate(parts)


def choose(lists: pd.Series, fraction: float, seed: int) -> np.ndarray:
    """Which rows are drawn, shape (rows,): the `fraction` of all and, to within one row, of each list."""
    rng = random.Random(f"{seed}/outliers")
    rows = lists.groupby(lists).indices
    names = sorted(rows)
    rng.shuffle(names)
    order = [row for name in names for row in rng.sample(list(rows[name]), len(rows[name]))]
    turns = np.floor(np.arange(len(order) + 1) * fraction + 0.5)
    chosen = np.zeros(len(order), bool)
    chosen[np.array(order, int)[np.diff(turns) > 0]] = True
    return chosen


def line(account: dict) -> str:
    """What became of one file, in a line."""
    text = f"{account['path']}: {account['read']:,} lines read, {account['train']:,} for train, "
    text += f"{account['validation']:,} for validation"
    dropped = {reason: len(texts) for reason, texts in account["dropped"].items() if texts}
    if dropped:
        text += f", {sum(dropped.values()):,} dropped: "
        text += ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    return text


def write(accounts: list[dict]) -> None:
    write_json(FILE, accounts)
