"""Search the settings that conf/search names: each trial is a DVC experiment, and the best is applied.

    python -m stages.search experiment=clinc150 search.trials=20

The overrides are Hydra's. Started again, it goes on where it stopped; started in other clones too, on a
storage that all reach, the workers share the trials. At the end the best trial is the workspace,
<report.folder>/search/ has the trials and pictures of them, and the pipeline is run through with it.
"""

import argparse
from pathlib import Path

from stages import params
from stages.atomic import replacing
from stages.errors import command


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m stages.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="of conf/, such as search.trials=5")
    overrides = parser.parse_args(argv).overrides
    p = params.compose(overrides)
    from stages.experiments import search
    from stages.reporting import trials

    study = search.open_study(p.search)
    if not search.run(study, p, overrides):
        print("all trials are done: another worker applies the best of them")
        return
    search.apply_best(study, p.search)
    folder = Path(p.report.folder) / "search"
    for name, write in trials.outputs(study, p.search).items():
        with replacing(folder / name) as scratch:
            write(scratch)
    print((folder / "trials.md").read_text())
    search.run_through()
    print(f"{search.best(study).user_attrs['experiment']} is applied; models/best is")
    print((Path(p.report.folder) / "best.json").read_text())


if __name__ == "__main__":
    main()
