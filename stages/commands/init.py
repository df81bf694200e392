"""Start a project of one's own: this pipeline, without our results, on one's queries and model."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import click

from stages.core.atomic import replacing
from stages.core.errors import UserError

ROOT = Path(__file__).parents[2]
COPIED = (
    *("conf", "stages", "dvc.yaml", "pyproject.toml", "LICENSE"),
    *(".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"),
)
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.part")
OUR_RESULTS = re.compile(r"\[([^]]+)\]\((?:\.\./)+metrics/[^)]*\)")
README = """# {name}

A classifier of intents, made small and fast from {teacher}, on the queries of `{data}`.

```bash
pip install -e .
dvc exp run        # makes and measures the models
intents results    # prints their table
```

The results are in `metrics/files`, and the models in `calibrated/`. [conf/README.md](conf/README.md) explains
the settings, and [stages/techniques/README.md](stages/techniques/README.md) what makes a model smaller.
"""


@click.command
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A file or folder of queries.")
@click.option("--model", help="A folder or a name on the hub; without it, a MiniLM is fine-tuned.")
@click.option("--text-column", default="text", show_default=True, help="The column of the queries.")
@click.option("--intent-column", default="intent", show_default=True, help="The column of their intents.")
@click.option("--out-of-scope", help="The label of queries without an intent, if there is one.")
def command(
    folder: Path,
    data: Path,
    model: str | None,
    text_column: str,
    intent_column: str,
    out_of_scope: str | None,
):
    """Start a project of your own in FOLDER, which is new.

    It has this pipeline with its settings, without our results, and reads your queries and your model where
    they are. Git and DVC are set up, and all is committed.

    \b
    intents init my-project --data queries.csv --model my-model
    cd my-project && pip install -e . && dvc exp run
    """
    if folder.exists():
        raise UserError(f"{folder} exists: name a new folder")
    if missing := [name for name in COPIED if not (ROOT / name).exists()]:
        raise UserError(
            f"{ROOT} has no {missing[0]}: install this project with pip install -e, from its clone"
        )
    if not data.exists():
        raise UserError(f"{data} does not exist: name your file or folder of queries with --data")
    given = {
        "conf/data/files.yaml": {
            "path": str(data.resolve()),
            "text_column": text_column,
            "intent_column": intent_column,
            "out_of_scope": out_of_scope,
        }
    }
    chosen = {"data": "files"}
    if model is not None:
        name = str(Path(model).resolve()) if Path(model).is_dir() else model
        given["conf/teacher/own.yaml"] = {"model": name}
        chosen["teacher"] = "own"
    with replacing(folder) as scratch:
        scratch.mkdir()
        for name in COPIED:
            (scratch / name).parent.mkdir(exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, scratch / name, ignore=NOT_COPIED)
            else:
                shutil.copyfile(ROOT / name, scratch / name)
        for page in scratch.rglob("README.md"):
            page.write_text(OUR_RESULTS.sub(r"\1", page.read_text("utf-8")), encoding="utf-8")
        for name, values in given.items():
            edit(scratch / name, r"^{}: .*$", "{}: {}", {key: json.dumps(v) for key, v in values.items()})
        edit(scratch / "conf/config.yaml", r"^  - {}: \S+", "  - {}: {}", chosen)
        teacher = "MiniLM" if model is None else f"`{model}`"
        text = README.format(name=folder.name, teacher=teacher, data=data)
        (scratch / "README.md").write_text(text, encoding="utf-8")
        compose(scratch)
        for line in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "The pipeline, on our queries"]):
            git(scratch, *line)
    click.echo(f"{folder}: next, cd {folder} && pip install -e . && dvc exp run")


def edit(file: Path, pattern: str, line: str, values: dict[str, str]) -> None:
    """Put the `values` of keys into a file of settings, in their lines."""
    text = file.read_text("utf-8")
    for key, value in values.items():
        old = re.search(pattern.format(key), text, re.MULTILINE)
        if old is None:
            raise UserError(f"{file.name} has no {key!r}: restore conf/ as it was")
        text = text[: old.start()] + line.format(key, value) + text[old.end() :]
    file.write_text(text, encoding="utf-8")


def compose(project: Path) -> None:
    """Write the project's params.yaml, as `dvc exp run` does; a UserError if its settings make no sense."""
    import hydra
    from omegaconf import OmegaConf

    from stages.core import settings

    with hydra.initialize_config_dir(str((project / "conf").resolve()), version_base=None):
        config = hydra.compose("config")
    OmegaConf.resolve(config)
    (project / "params.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    settings.load(project / "params.yaml")


def git(folder: Path, *arguments: str) -> None:
    """Run git there; a UserError has what it says."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("git is not installed: install it, since DVC needs it") from None
    if done.returncode:
        first = (done.stderr or done.stdout).strip().splitlines()[0]
        raise UserError(f"git {arguments[0]} failed ({first}): correct that, and run this again")
