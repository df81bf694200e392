"""Distillation: a smaller student learns from the teacher's logits."""

import json
from pathlib import Path

from transformers import (
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from stages.checkpoints import encoder, pretrained
from stages.core.errors import UserError
from stages.core.model_folder import label_names
from stages.techniques.settings import Distill
from stages.training.distillation import distil

# BertLayer's modules under the names of DistilBERT's TransformerBlock.
BLOCK = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def apply(parent: Path, folder: Path, settings: Distill) -> dict:
    """Write into `folder` a trained student of the torch model `parent`; returns its `history`.

    A student from the hub reads with its own tokenizer, of queries as long as `parent` reads.
    """
    model = student(parent, settings)
    tokenizer = parent
    if settings.student.init == "hub":
        tokenizer = folder
        read = json.loads((parent / "tokenizer.json").read_text(encoding="utf-8"))["truncation"]
        length = pretrained.fitting(model, read["max_length"])
        pretrained.save_tokenizer(settings.student.model, folder, length)
    encoder.freeze_embeddings(model, settings.student.freeze_embeddings)
    history = distil(model, tokenizer, folder.name, settings)
    model.save_pretrained(folder)
    return {"history": history}


def student(parent: Path, settings: Distill) -> PreTrainedModel:
    """The untrained student: layers of the model folder `parent`, or a model from the hub."""
    if settings.student.init == "hub":
        return pretrained.classifier(settings.student.model, label_names(parent))
    return from_teacher_layers(encoder.load(parent), settings.layers or settings.student.layers)  # type: ignore[arg-type]


def from_teacher_layers(
    teacher: BertForSequenceClassification, layers: list[int]
) -> DistilBertForSequenceClassification:
    """A DistilBERT made of the teacher's embeddings, the given layers (from 0) and its head.

    DistilBERT's own initialisation (Sanh et al., 2019, arXiv:1910.01108, section 3), for any BERT.
    DistilBERT has no token types: the row of type 0, which every token of a single text has, is
    added to each position's. The pooler becomes `pre_classifier` (there the activation is ReLU
    instead of tanh).
    """
    config = teacher.config
    if config.model_type != "bert":
        raise UserError(
            f"teacher-layers makes a student of a BERT, and the teacher is a {config.model_type}: "
            "choose student=distilbert, or another teacher"
        )
    if getattr(config, "layer_shapes", None):
        raise UserError("teacher-layers makes a student of a whole BERT: prune the student, not its teacher")
    if max(layers) >= config.num_hidden_layers:
        raise UserError(
            f"distill.student.layers has {max(layers)}, "
            f"and the teacher's layers are 0 to {config.num_hidden_layers - 1}"
        )
    student = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            n_layers=len(layers),
            n_heads=config.num_attention_heads,
            dim=config.hidden_size,
            hidden_dim=config.intermediate_size,
            activation=config.hidden_act,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            pad_token_id=config.pad_token_id,
            id2label=config.id2label,
            label2id=config.label2id,
            problem_type="single_label_classification",
        )
    )
    theirs, ours = teacher.bert.embeddings, student.distilbert.embeddings
    ours.word_embeddings.weight.data = theirs.word_embeddings.weight.data.clone()
    ours.position_embeddings.weight.data = (
        theirs.position_embeddings.weight.data + theirs.token_type_embeddings.weight.data[0]
    )
    ours.LayerNorm.load_state_dict(theirs.LayerNorm.state_dict())
    for layer, block in zip(layers, student.distilbert.transformer.layer, strict=True):
        for source, target in BLOCK.items():
            module = teacher.bert.encoder.layer[layer].get_submodule(source)
            block.get_submodule(target).load_state_dict(module.state_dict())
    student.pre_classifier.load_state_dict(teacher.bert.pooler.dense.state_dict())
    student.classifier.load_state_dict(teacher.classifier.state_dict())
    return student
