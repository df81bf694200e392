"""The model that the field starts from, as a shape: for latency and size, not for answers."""

import shutil
from pathlib import Path

from stages.core import model_folder
from stages.core.settings import BertShape

NAME = "bert-base-shape"


def write(folder: Path, teacher: Path, shape: BertShape) -> None:
    """A BERT classifier of `shape` with unfit weights, and the labels and the tokenizer of `teacher`.

    It has a word for each piece of the tokenizer, if they are more than those of the shape.
    """
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForSequenceClassification, logging

    logging.disable_progress_bar()  # of a file that is written within a second

    known = Tokenizer.from_file(str(teacher / "tokenizer.json")).get_vocab_size()
    if shape.vocab_size < known:
        print(f"{NAME} has {known:,} words, as many as the teacher's tokenizer, not {shape.vocab_size:,}")
        shape = shape.model_copy(update={"vocab_size": known})
    labels = model_folder.label_names(teacher)
    config = BertConfig(
        **shape.model_dump(), id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    for file in model_folder.TOKENIZER:
        shutil.copyfile(teacher / file, folder / file)
