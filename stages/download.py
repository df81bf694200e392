"""Stage `download`: the queries of the source as data/<split>.parquet, their labels, domains, outliers.

Text without labels, if there is any, becomes data/unlabelled.parquet.
"""

import numpy as np

from stages.core import settings
from stages.core.errors import UserError, command
from stages.data import (
    clinc150,
    domains,
    duplicates,
    files,
    hub,
    outliers,
    sample,
    splits,
    tables,
    tokenizer,
    unlabelled,
)


@command
def main():
    p = settings.load()
    names = None
    if p.data.source == "clinc150":
        given, names = clinc150.load(p.data)
    elif p.data.source == "sample":
        given = sample.load(p.data, p.seed)
    elif p.data.source == "files":
        given = files.load(p.data)
    else:
        given = hub.load(p.data)
    for split, table in given.items():
        if table.empty:
            raise UserError(f"{p.data.path} has no queries for {split}: add some, or correct data.path")

    teacher = tokenizer.of_teacher(p.teacher.source, p.teacher.model)
    queries, dropped = duplicates.drop(given, teacher, p.data.max_length, p.data.duplicates)
    print(duplicates.account(given, dropped))
    if alike := duplicates.read_alike(queries, teacher, p.data.max_length):
        print(
            f"{alike} queries differ from one of another intent only in words that the teacher does not know"
        )
    if p.data.source in ("files", "hub"):
        queries = splits.complete(queries, p.data.test_fraction, p.data.validation_fraction, p.seed)
    for split, table in queries.items():
        if table.empty:
            raise UserError(f"no query is left for {split}: add some that no other split has")
    is_out = queries["train"]["intent"] == p.data.out_of_scope
    queries["train"]["weight"] = np.where(is_out, p.data.out_of_scope_weight, 1.0)
    accounts: list[dict] = []
    if p.data.outliers:
        encoder = settings.Pretrained(source=p.teacher.source, model=p.teacher.model, sha256=p.teacher.sha256)
        queries, accounts = outliers.add(queries, p.data, encoder, teacher, p.seed)
        print(*map(outliers.line, accounts), sep="\n")
    known = set(queries["train"]["intent"])
    for split, table in queries.items():
        unknown = sorted(set(table["intent"]) - known)
        if unknown:
            raise UserError(
                f"{split} has intents that train lacks ({', '.join(unknown[:5])}): add training "
                "queries for them, or correct the names"
            )
    if p.data.out_of_scope is not None and p.data.out_of_scope not in known:
        raise UserError(
            f"no training query has the out-of-scope intent {p.data.out_of_scope!r}: set "
            "data.out_of_scope to its name, or to null if there is none"
        )
    texts = {split: table["text"].tolist() for split, table in queries.items()}
    extra = unlabelled.load(p.data.unlabelled, texts, teacher, p.data.max_length, p.seed)
    tables.write("data", queries, tables.Labels(names or sorted(known), p.data.out_of_scope), extra)
    domains.write(domains.of(p.data))
    outliers.write(accounts)
    for split, table in queries.items():
        print(f"{split}: {len(table):,} queries, {table['intent'].nunique()} intents")
    if few := splits.rare(queries["train"]):
        print(few)
    if extra:
        print(f"unlabelled: {len(extra):,} texts")


if __name__ == "__main__":
    main()
