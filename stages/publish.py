"""A model as the Hugging Face Hub has them: its folder with a model card.

    python -m stages.publish --model models/best --output published
    python -m stages.publish --model models/best --output published --upload user/name

Upload takes a token, as `huggingface_hub` finds it. Where the Hub cannot be reached, the folder is there.
"""

import argparse
import shutil
from pathlib import Path

from stages import model_folder, params
from stages.atomic import replacing
from stages.errors import UserError, command


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m stages.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=Path("models/best"), help="(models/best)")
    parser.add_argument("--output", type=Path, default=Path("published"), help="the folder (published)")
    parser.add_argument("--upload", metavar="USER/NAME", help="a model repository of the Hub")
    arguments = parser.parse_args(argv)
    model_folder.label_names(arguments.model)
    p = params.load()
    if arguments.output.exists():
        raise UserError(f"{arguments.output} is there already: remove it, or name another --output")
    from stages.reporting import card

    with replacing(arguments.output) as scratch:
        shutil.copytree(arguments.model, scratch)
        recipe = model_folder.recipe(scratch)
        name = recipe["parent"] if recipe["technique"] == "selection" else arguments.model.name
        (scratch / "README.md").write_text(card.write(scratch, name, p))
    print(f"{arguments.output}: {model_folder.size_mb(arguments.output):.1f} MB")
    if arguments.upload:
        upload(arguments.output, arguments.upload)


def upload(folder: Path, name: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        address = api.upload_folder(folder_path=folder, repo_id=name)
    except (HTTPError, HFValidationError, OSError) as error:
        raise UserError(f"not uploaded, {folder} is ready: {' '.join(str(error).split())}") from None
    print(address)


if __name__ == "__main__":
    main()
