"""Distillation: a smaller student learns from the teacher's logits."""

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.checkpoints import encoder, pretrained
from stages.core import model_folder
from stages.core.errors import UserError
from stages.data import tables
from stages.techniques import students
from stages.techniques.settings import Distill
from stages.training import head, loop
from stages.training.distillation import distil
from stages.training.layerwise import Layerwise


def apply(parent: Path, folder: Path, settings: Distill) -> dict:
    """Write into `folder` a trained student of the torch model `parent`; returns its `history`.

    A student from the hub reads with its own tokenizer, of queries as long as `parent` reads.
    """
    layers = layerwise(parent, settings) if settings.hidden or settings.relations else None
    model = student(parent, settings)
    tokenizer = parent
    if settings.student.init == "hub":
        tokenizer = folder
        read = json.loads((parent / "tokenizer.json").read_text(encoding="utf-8"))["truncation"]
        length = pretrained.fitting(model, read["max_length"])
        pretrained.save_tokenizer(settings.student.model, folder, length)
    encoder.freeze_embeddings(model, settings.student.freeze_embeddings)
    history = distil(model, tokenizer, folder.name, settings, layerwise=layers)
    model.save_pretrained(folder)
    return {"history": history}


def student(parent: Path, settings: Distill) -> PreTrainedModel:
    """The untrained student: `parent` itself if `general` made it, layers of it, or a model from the hub."""
    if general_layers(parent):
        return with_a_head(parent)
    if settings.student.init == "hub":
        return pretrained.classifier(settings.student.model, model_folder.label_names(parent))
    teacher = encoder.load(parent)
    return students.of_teacher(teacher, layers_of(teacher, settings), settings.student.architecture)


def layers_of(teacher: PreTrainedModel, settings: Distill) -> list[int]:
    """The layers of `teacher`, from 0, that the student is made of."""
    return students.indices(settings.layers or settings.student.layers, teacher.config.num_hidden_layers)  # type: ignore[union-attr]


def general_layers(parent: Path) -> list[int] | None:
    """The layers of the pretrained encoder that `general` made `parent` of; None for any other model."""
    recipe = model_folder.recipe(parent)
    return recipe["parameters"]["layers"] if recipe["technique"] == "general" else None


def with_a_head(parent: Path) -> PreTrainedModel:
    """The encoder in `parent`, its head fitted to the training split by logistic regression."""
    model = pretrained.classifier(str(parent), tables.read_labels().names)
    torch.nn.init.orthogonal_(model.get_parameter("pre_classifier.weight"))
    head.fit(model, loop.encode(tables.read("train"), parent))
    return model


def layerwise(parent: Path, settings: Distill) -> Layerwise:
    """The losses of the layers: the teacher is `parent`, or models/teacher if `general` made that."""
    layers = general_layers(parent)
    if layers is None:
        teacher = encoder.load(parent)
        return Layerwise(teacher, layers_of(teacher, settings), settings)
    first = model_folder.MODELS / "teacher"
    ours, theirs = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | {"truncation": None}
        for folder in (parent, first)
    )
    if ours != theirs:
        raise UserError(
            f"{parent} and {first} read with different tokenizers, so hidden and relations cannot compare "
            "them: make both of one encoder, or set hidden and relations to 0"
        )
    return Layerwise(encoder.load(first), layers, settings)
