"""Stage `download`: the queries of the source as data/<split>.parquet, their labels, and domains.json."""

from stages.core import settings
from stages.core.errors import UserError, command
from stages.data import clinc150, domains, files, sample, tables


@command
def main():
    p = settings.load()
    names = None
    if p.data.source == "clinc150":
        splits, names = clinc150.load(p.data)
    elif p.data.source == "files":
        splits = files.load(p.data, p.seed)
    else:
        splits = sample.load(p.data, p.seed)

    known = set(splits["train"]["intent"])
    for split, table in splits.items():
        if table.empty:
            raise UserError(f"{p.data.path} has no queries for {split}: add some, or correct data.path")
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
    tables.write("data", splits, tables.Labels(names or sorted(known), p.data.out_of_scope))
    domains.write(domains.of(p.data))
    for split, table in splits.items():
        print(f"{split}: {len(table):,} queries, {table['intent'].nunique()} intents")


if __name__ == "__main__":
    main()
