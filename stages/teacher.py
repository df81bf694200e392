"""Stage `teacher`: a pretrained encoder fine-tuned on the data, and its logits over the training split."""

from stages.core import settings
from stages.core.errors import command


@command
def main():
    p = settings.load()
    import numpy as np
    from transformers import set_seed

    from stages.checkpoints import encoder, pretrained
    from stages.core import model_folder
    from stages.core.atomic import replacing
    from stages.data import tables
    from stages.training import head, loop

    set_seed(p.seed)
    name = pretrained.locate(p.teacher)
    model = pretrained.classifier(name, tables.read_labels().names, keep_head=p.teacher.epochs == 0)
    with replacing(model_folder.MODELS / "teacher") as scratch:
        scratch.mkdir()
        pretrained.save_tokenizer(name, scratch, pretrained.fitting(model, p.data.max_length))
        train = loop.encode(tables.read("train"), scratch)
        history = []
        if p.teacher.epochs:
            encoder.freeze_embeddings(model, p.teacher.freeze_embeddings)
            encoder.set_dropout(model, p.teacher.dropout)
            head.fit(model, train)
            trainer = loop.WeightedTrainer(
                model,
                loop.arguments(p.teacher, "teacher", p.seed),
                train_dataset=train,
                eval_dataset=loop.encode(tables.read("validation"), scratch),
                data_collator=loop.PadToLongest(model.config.pad_token_id),
                compute_metrics=loop.metrics,
            )
            history = loop.fit(trainer, identity=str(p.teacher))
        model.save_pretrained(scratch)
        model_folder.write_recipe(
            scratch, p.teacher.model, "teacher", p.teacher.model_dump(), history=history
        )
        logits = loop.logits(model, train)
    with replacing("logits/train.npy") as scratch, scratch.open("wb") as file:
        np.save(file, logits)


if __name__ == "__main__":
    main()
