"""Pretrained encoders, from a wheel or from the hub, as intent classifiers."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    logging,
)
from transformers.utils import cached_file

from stages.checkpoints import encoder, families
from stages.core import packages, processes
from stages.core.errors import UserError, log_in
from stages.core.settings import Pretrained
from stages.techniques.settings import General

WITHOUT_A_HUB = (
    "name a local folder that holds it, or choose teacher=minilm and student=teacher-layers, "
    "which need no hub"
)
WITHOUT_A_TOKENIZER = "choose a model that comes with its own tokenizer"
INPUTS = ["input_ids", "attention_mask"]
UNNAMED = re.compile(r"LABEL_\d+")


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
    """The encoder `name` with a classification head over `labels`; see `found`, whose model it is."""
    return found(name, labels, keep_head).model


@dataclass(frozen=True)
class Found:
    """A pretrained classifier; `has_head`, if its head is one over the data's labels, and `head` says how."""

    model: PreTrainedModel
    has_head: bool
    head: str

    def __str__(self) -> str:
        """The family, the size and the head, in words."""
        config, count = self.model.config, self.model.num_parameters()
        return (
            f"a {config.model_type}, {config.num_hidden_layers} layers, {config.hidden_size} wide, "
            f"{count / 1e6:.1f} million parameters, {4 * count / 2**20:.1f} MB in fp32; {self.head}"
        )


def found(
    name: str,
    labels: list[str],
    keep_head: bool = False,
    given: list[str] | None = None,
    trust_remote_code: bool = False,
) -> Found:
    """The encoder `name` with a classification head over `labels`.

    A head of these labels is kept, in the order of `labels`; `matched` says when they are these. Any other is
    replaced by an untrained one, which is said; with `keep_head` it is a UserError. So is an encoder that is
    not whole. Where the head of a family has a layer of its own before it, which is not trained either, that
    layer starts as the identity, for the head to read the encoder's features as they are.
    """
    theirs, model, loading = _read(name, labels, trust_remote_code)
    shapes = {key for key, *_ in loading["mismatched_keys"]}
    layer, head = encoder.output_layer(model)
    in_head = {f"{layer}.weight", f"{layer}.bias"}
    absent = sorted(
        key
        for key in loading["missing_keys"] | shapes - in_head
        if key.startswith(f"{model.base_model_prefix}.") and "pooler." not in key
    )
    if absent:
        raise UserError(
            f"{name!r} lacks {len(absent)} of the encoder's weights ({', '.join(absent[:3])}), which would "
            "be random: choose a model that has them"
        )
    has_head = f"{layer}.weight" not in loading["missing_keys"]
    dense = families.head_of(model.config.model_type)
    if f"{dense}.weight" in loading["missing_keys"]:
        torch.nn.init.eye_(model.get_parameter(f"{dense}.weight"))
        if f"{dense}.bias" in loading["missing_keys"]:
            torch.nn.init.zeros_(model.get_parameter(f"{dense}.bias"))
    order, how = matched(theirs, labels, given)
    if order and has_head and not shapes & in_head:
        for parameter in head.parameters():
            parameter.data = parameter.data[order]
        return Found(model, True, f"its head of {len(labels)} labels is kept, matched {how}")
    if keep_head:
        missing = ", ".join(sorted(set(labels) - set(theirs))[:3]) or "none"
        other = f"was trained on {len(theirs)} other labels (it lacks {missing} of the data's {len(labels)})"
        reason = other if has_head else "has no trained head"
        names = (
            ", or teacher.labels to the names of LABEL_0, LABEL_1 …"
            if has_head and len(theirs) == len(labels) and all(map(UNNAMED.fullmatch, theirs))
            else ""
        )
        raise UserError(f"{name!r} {reason}: set teacher.epochs above 0 to fine-tune it{names}")
    if has_head:
        _say(f"{name!r} was trained on {len(theirs)} other labels: it gets a new head over {len(labels)}")
        head.reset_parameters()
    return Found(model, False, f"a new head over {len(labels)} labels")


def matched(theirs: list[str], labels: list[str], given: list[str] | None) -> tuple[list[int] | None, str]:
    """For each of `labels` its place among a model's labels `theirs`, and how they were matched.

    By name; or else by name but for case, spaces, hyphens and underscores; and LABEL_0, LABEL_1 … have the
    names `given` in their order. None where the two are not the same labels.
    """
    how = "by name"
    if given is not None and all(map(UNNAMED.fullmatch, theirs)):
        if len(given) != len(theirs):
            raise UserError(f"teacher.labels has {len(given)} names, and the model {len(theirs)} labels")
        theirs, how = given, "by the order of teacher.labels"
    for alike in (str, _loosely):
        places = {alike(label): place for place, label in enumerate(theirs)}
        wanted = [alike(label) for label in labels]
        if len(places) == len(theirs) and len({*wanted}) == len(labels) and {*places} == {*wanted}:
            return [
                places[label] for label in wanted
            ], how if alike is str else f"{how} but for case and spaces"
    return None, ""


def _loosely(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()


def crossed(answers: np.ndarray, labels: np.ndarray) -> dict[int, int]:
    """Labels whose queries are mostly answered as another label that is answered as another, too.

    A weak model mistakes some labels for their neighbours; one whose labels are in another order mistakes
    them for each other. Both arrays are class indices, shape (queries,). Labels with under 3 queries do not
    count.
    """
    mostly = {}
    for label in np.unique(labels):
        counts = np.bincount(answers[labels == label])
        if counts.sum() >= 3 and 2 * counts.max() > counts.sum() and counts.argmax() != label:
            mostly[int(label)] = int(counts.argmax())
    while another := {label: answer for label, answer in mostly.items() if answer in mostly}:
        if len(another) == len(mostly):
            return mostly
        mostly = another
    return {}


def account(answers: np.ndarray, labels: list[int], names: list[str]) -> str:
    """A sentence on the accuracy of the `answers`, and another where the labels look crossed."""
    right = np.array(labels)
    text = f"validation accuracy before any training: {np.mean(answers == right):.1%}"
    if pairs := crossed(answers, right):
        some = ", ".join(f"{names[label]} as {names[answer]}" for label, answer in [*pairs.items()][:3])
        text += (
            f"\nwarning: {len(pairs)} labels look crossed, answered as each other ({some}): check the order "
            "of the model's labels"
        )
    return text


def encoder_of(name: str) -> PreTrainedModel:
    """The encoder `name`, without a head, in evaluation mode."""
    return _read(name, ["a", "b"], False)[1].base_model.eval()  # type: ignore[return-value]


def _read(name: str, labels: list[str], trust_remote_code: bool) -> tuple[list[str], PreTrainedModel, dict]:
    """The labels of the checkpoint `name`, its model with a logit for each of `labels`, and what it lacks.

    A pickle is read for its weights only, and code that comes with a model runs only if it is trusted.
    """
    id2label = dict(enumerate(labels))
    if not Path(name).is_dir():
        logging.enable_progress_bar()  # of the download
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or a table of 8 lines says that the head is new
    try:
        theirs = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code).id2label
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            problem_type="single_label_classification",
            id2label=id2label,
            label2id={label: i for i, label in id2label.items()},
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
        first = str(error).split("\n")[0]
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{name!r} comes with code of its own: read it, and set teacher.trust_remote_code to true to "
                "run it"
            ) from None
        raise UserError(f"cannot load {name!r} ({first}): {log_in(error)}{WITHOUT_A_HUB}") from None
    finally:
        logging.set_verbosity(verbosity)
        logging.disable_progress_bar()
    if model.config.model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{name!r} is a {model.config.model_type}, which its own code alone can read, and no stage after "
            "this one runs that: choose a model of an architecture that transformers has"
        )
    if getattr(model.config, "auto_map", None):
        model = _plain(name, model, trust_remote_code)
    return [theirs[i] for i in sorted(theirs)], model, loading


def _plain(name: str, model: PreTrainedModel, trusted: bool) -> PreTrainedModel:
    """`model`, which comes with code of its own, as the class of transformers that later stages run.

    A UserError, if the code was trusted and computes otherwise. If it was not, nobody knows, which is said.
    """
    values = model.config.to_dict()
    del values["auto_map"]
    plain = encoder.from_config(AutoConfig.for_model(**values))
    kind = f"transformers' {model.config.model_type}"
    plain.name_or_path = name
    left = plain.load_state_dict(model.state_dict(), strict=False)
    if not trusted:
        _say(f"{name!r} comes with code of its own, which is not run: it is read as {kind}")
    else:
        ids = torch.arange(4, 12)[None]
        with torch.inference_mode():
            same = torch.allclose(model.eval()(ids).logits, plain(ids).logits, rtol=1e-3, atol=1e-3)
        if any(left) or not same:
            raise UserError(
                f"{name!r} does not compute what {kind} does with its weights, and no stage after this one "
                "runs its code: choose a model of an architecture that transformers has"
            )
    return plain


def fitting(model: PreTrainedModel, max_length: int) -> int:
    """`max_length`, or the most tokens that `model` reads if they are fewer, which is said."""
    most = encoder.positions(model)
    if most is None or max_length <= most:
        return max_length
    _say(f"{model.name_or_path!r} reads {most} tokens at most: queries are cut there, not at {max_length}")
    return most


def save_tokenizer(name: str, folder: Path, max_length: int, trust_remote_code: bool = False) -> None:
    """Write the tokenizer of `name`, truncating at `max_length` tokens, without padding.

    It is that of its tokenizer.json. Without one, transformers makes it of the vocabulary's files. In
    transformers, too, it gives the inputs that our models are trained and exported with. A tokenizer that
    is not there, or does not go with the model's embeddings, is a UserError.
    """
    options: dict = {"model_max_length": max_length, "model_input_names": INPUTS}
    options["trust_remote_code"] = trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        # Some of transformers' classes make a tokenizer anew of the pieces in tokenizer.json, with a
        # normalizer of their own: an Albert's would lose its accents.
        if tokenizer.is_fast and has_file(name, "tokenizer.json"):
            plain = PreTrainedTokenizerFast.from_pretrained(name, **options)
            if _parts(plain) != _parts(tokenizer):
                tokenizer = plain
    except Exception as error:  # tokenizers raises nothing narrower
        first = str(error).split("\n")[0]
        raise UserError(f"cannot load the tokenizer of {name!r} ({first}): {WITHOUT_A_TOKENIZER}") from None
    special = set(tokenizer.all_special_tokens)
    ids = [i for token, i in tokenizer.get_vocab().items() if token not in special]
    if not tokenizer.is_fast or not ids:
        raise UserError(f"{name!r} has no tokenizer.json, nor a file to make it of: {WITHOUT_A_TOKENIZER}")
    rows = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code).vocab_size
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


def _parts(tokenizer: Any) -> dict:
    """What decides how `tokenizer` reads a text, but for truncation and padding."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in parts.items() if key not in ("truncation", "padding")}


def has_file(name: str, file: str) -> bool:
    """Whether the checkpoint `name`, a folder or one on the hub, has this file."""
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False) is not None


def _say(text: str) -> None:
    """Print a line, once for all processes of a training."""
    if processes.is_main():
        print(text, flush=True)
