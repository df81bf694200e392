"""A model as the Hugging Face Hub has them: its folder with a model card."""

import shutil
from pathlib import Path

import click

from stages.commands import warn_if_uncalibrated
from stages.core import model_folder
from stages.core.atomic import replacing
from stages.core.errors import UserError


@click.command
@click.option("--model", type=click.Path(path_type=Path), default="models/best", show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="published",
    show_default=True,
    help="The new folder.",
)
@click.option("--upload", metavar="USER/NAME", help="A model repository of the Hub.")
def command(model: Path, output: Path, upload: str | None):
    """Write a model with its card, and upload it if asked.

    The card says how the model was made, what was measured, how to load it, and the licence of its data. The
    upload takes a token as huggingface_hub finds it. Where the Hub cannot be reached, the folder is ready.

    \b
    intents publish --model models/best --output published
    intents publish --model models/best --output published --upload user/name
    """
    from stages.core import settings

    model_folder.label_names(model)
    warn_if_uncalibrated(model)
    p = settings.load()
    if output.exists():
        raise UserError(f"{output} exists: remove it, or name another --output")
    from stages.commands import card

    with replacing(output) as scratch:
        shutil.copytree(model, scratch)
        recipe = model_folder.recipe(scratch)
        name = recipe["parent"] if recipe["technique"] == "select" else model.name
        (scratch / "README.md").write_text(card.write(scratch, name, p))
        without = card.measured(scratch, name, p)[1]
    if without:
        click.echo(f"note: the card has no accuracy and no speed: {without}", err=True)
    click.echo(f"{output}: {model_folder.size_mb(output):.1f} MB")
    if upload:
        click.echo(uploaded(output, upload))


def uploaded(folder: Path, name: str) -> str:
    """The address of the folder on the Hub, once it is there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=name))
    except (HTTPError, HFValidationError, OSError) as error:
        raise UserError(f"not uploaded, {folder} is ready: {' '.join(str(error).split())}") from None
