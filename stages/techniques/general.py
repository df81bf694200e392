"""The general step: a student learns from the layers of a pretrained encoder, before it has a task.

TinyBERT's general distillation (Jiao et al., 2020, arXiv:1909.10351, section 3.2), on queries.
"""

from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from stages.checkpoints import encoder, pretrained
from stages.core.errors import UserError
from stages.data import tables
from stages.techniques import students
from stages.techniques.settings import General
from stages.training import layerwise, loop


def apply(source: str, folder: Path, settings: General) -> dict:
    """Write into `folder` a trained student without a head, and the tokenizer of the encoder `source`.

    Returns its `history`. It is trained on the texts of the training split and on unlabelled ones.
    """
    teacher = pretrained.classifier(source, tables.read_labels().names)
    layers = students.indices(settings.layers, teacher.config.num_hidden_layers)
    student = students.from_teacher_layers(teacher, layers).distilbert
    width, feed_forward = shape(teacher, settings)
    pretrained.save_tokenizer(source, folder, pretrained.fitting(teacher, settings.max_length))
    train = loop.encode(texts(), folder)
    if (width, feed_forward) != (student.config.dim, student.config.hidden_dim):
        batch = layerwise.some(train, student.config.pad_token_id)
        basis = students.principal_basis(teacher, batch, width)
        student = students.narrowed(student, basis, feed_forward)
    encoder.freeze_embeddings(student, settings.freeze_embeddings)
    losses = layerwise.Layerwise(teacher, settings.layers, settings)
    validation = loop.encode(tables.read("validation"), folder)
    history = layerwise.imitate(student, losses, folder.name, settings, settings.seed, train, validation)
    student.save_pretrained(folder)
    return {"history": history}


def texts() -> pd.DataFrame:
    """Columns `text`, each once, and `label`, 0: of the training split, and of data/unlabelled.parquet."""
    parts = [tables.read("train")["text"]]
    unlabelled = Path("data/unlabelled.parquet")
    if unlabelled.exists():
        parts.append(pd.read_parquet(unlabelled)["text"])
    return pd.DataFrame({"text": pd.concat(parts).unique(), "label": 0})


def shape(teacher: PreTrainedModel, settings: General) -> tuple[int, int]:
    """Width and feed-forward columns of the student; a UserError where it would be no narrower teacher."""
    config = teacher.config
    size = config.hidden_size // config.num_attention_heads
    width = settings.width or config.hidden_size
    if width % size or width > config.hidden_size:
        raise UserError(
            f"general: width is {width}: should be a multiple of {size}, the size of the encoder's heads, "
            f"and at most its width {config.hidden_size}"
        )
    columns = settings.feed_forward or config.intermediate_size * width // config.hidden_size
    if columns > config.intermediate_size:
        raise UserError(f"general: feed_forward is {columns}: the encoder has {config.intermediate_size}")
    return width, columns
