"""Stage `select`: the model to deploy, as models/best."""

import json
import shutil
from pathlib import Path

from stages import params
from stages.atomic import replacing
from stages.errors import command


@command
def main():
    p = params.load()
    from stages import model_folder
    from stages.measurement import selection
    from stages.reporting import results

    variants = p.variants
    table = results.collect(variants.table, variants.parents)
    name = selection.choose(table, p.select)
    lineage = [{"stage": stage, **made} for stage, made in variants.lineage(name)]
    with replacing(model_folder.MODELS / "best") as scratch:
        shutil.copytree(model_folder.CALIBRATED / name, scratch)
        model_folder.write_recipe(scratch, name, "selection", p.select.model_dump(), lineage=lineage)
    found = table.loc[name, ["validation_accuracy", *results.HEADLINES]].astype(float).round(4).to_dict()
    with replacing(Path(p.report.folder) / results.BEST) as scratch:
        scratch.write_text(json.dumps({"model": name, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
