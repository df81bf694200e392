"""What has changed since another commit, as Markdown: the params, and each model better, worse or the same.

    python -m stages.compare main
    python -m stages.compare main --gate      # status 1, if a model lost more than conf/gate allows

Of the workspace against the commit; all of it is read from Git, so neither a cache nor a GPU is needed.
"""

import argparse
import sys

from stages import params
from stages.errors import command


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m stages.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", help="a commit, a branch or a tag")
    parser.add_argument("--gate", action="store_true", help="fail, if too much is lost")
    parser.add_argument(
        "--pictures", metavar="URL", help="show what changed; where the files of here will be"
    )
    arguments = parser.parse_args(argv)
    p = params.load()
    from stages.experiments import compare

    base = compare.commit(arguments.base)
    print(f"## Against {arguments.base} ({base[:7]})\n")
    print(compare.params_markdown(base))
    excesses = []
    for folder in compare.reports(base):
        table = compare.collect(folder, base, p.gate)
        print(compare.markdown(folder, table))
        excesses += compare.excesses(folder, table, p.gate)
    if arguments.pictures:
        print(compare.pictures_markdown(base, arguments.pictures))
    if arguments.gate:
        print("\n".join(["### Gate", "", *(f"- {line}" for line in excesses or ["nothing beyond it"])]))
        if excesses:
            sys.exit(1)


if __name__ == "__main__":
    main()
