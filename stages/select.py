"""Stage `select`: the model to deploy, as models/best."""

import shutil

from stages.core import settings
from stages.core.errors import command


@command
def main():
    p = settings.load()
    from stages.core import model_folder
    from stages.core.atomic import replacing
    from stages.reporting import results, selection

    parents = p.variants.parents  # kept for the report, which so depends on no variant's settings
    table = results.collect(p.variants.table, parents)
    name = selection.choose(table, p.select)
    measures = {
        "reason": selection.reason(table, name, p.select),
        "lineage": p.variants.lineage(name),
        "parents": parents,
    }
    with replacing(model_folder.MODELS / "best") as scratch:
        shutil.copytree(model_folder.CALIBRATED / name, scratch)
        model_folder.write_recipe(scratch, name, "select", p.select.model_dump(), **measures)


if __name__ == "__main__":
    main()
