"""Stage `teacher`: a pretrained encoder fine-tuned on the data, and its logits over the training split."""

import numpy as np

from stages import params
from stages.atomic import replacing
from stages.errors import command
from stages.intents import tables


@command
def main():
    p = params.load()
    from transformers import Trainer, set_seed

    from stages import model_folder
    from stages.compression import pretrained, training

    set_seed(p.seed)
    name = pretrained.locate(p.teacher)
    model = pretrained.classifier(name, tables.read_labels().names, keep_head=p.teacher.epochs == 0)
    with replacing(model_folder.MODELS / "teacher") as scratch:
        scratch.mkdir()
        pretrained.save_tokenizer(name, scratch, p.data.max_length)
        train = training.encode(tables.read("train"), scratch)
        history = []
        if p.teacher.epochs:
            trainer = Trainer(
                model,
                training.arguments(p.teacher, "teacher", p.seed),
                train_dataset=train,
                eval_dataset=training.encode(tables.read("validation"), scratch),
                data_collator=training.PadToLongest(model.config.pad_token_id),
                compute_metrics=training.metrics,
            )
            history = training.fit(trainer, identity=str(p.teacher))
        model.save_pretrained(scratch)
        model_folder.write_recipe(
            scratch, p.teacher.model, "fine-tuning", p.teacher.model_dump(), history=history
        )
        logits = training.logits(model, train)
    with replacing("logits/train.npy") as scratch, scratch.open("wb") as file:
        np.save(file, logits)


if __name__ == "__main__":
    main()
