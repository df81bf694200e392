"""Stage `teacher`: a pretrained encoder fine-tuned on the data, or frozen and given a head."""

import sys

from stages.core import settings
from stages.core.errors import command


@command
def main(name: str):
    p = settings.load()
    teacher = p.teachers[name]
    from transformers import set_seed

    from stages.checkpoints import encoder, families, pretrained
    from stages.core import model_folder
    from stages.core.atomic import replacing
    from stages.data import tables
    from stages.training import head, loop

    set_seed(teacher.seed)
    source = pretrained.locate(teacher)
    trains = teacher.freeze_encoder or teacher.epochs > 0
    labels, trust = tables.read_labels().names, teacher.trust_remote_code
    found = pretrained.found(source, labels, not trains, teacher.labels, trust)
    model = found.model
    print(f"{teacher.model}: {found}", flush=True)
    families.check_plan(name, model.config.model_type, p)
    with replacing(model_folder.MODELS / name) as scratch:
        scratch.mkdir()
        pretrained.save_tokenizer(source, scratch, pretrained.fitting(model, p.data.max_length), trust)
        if found.has_head:
            validation = loop.encode(tables.read("validation"), scratch)
            answers = loop.logits(model, validation, bar="validation").argmax(axis=1)
            print(pretrained.account(answers, [row["labels"] for row in validation], labels), flush=True)
        train = loop.encode(tables.read("train"), scratch)
        history = []
        if trains:
            head.fit(model, train)
        if teacher.epochs:
            encoder.freeze_embeddings(model, teacher.freeze_embeddings)
            encoder.set_dropout(model, teacher.dropout)
            trainer = loop.WeightedTrainer(
                model,
                loop.arguments(teacher, name, teacher.seed),
                train_dataset=train,
                eval_dataset=loop.encode(tables.read("validation"), scratch),
                data_collator=loop.PadToLongest(model.config.pad_token_id),
                compute_metrics=loop.metrics,
            )
            history = loop.fit(trainer, identity=str(teacher))
        model.save_pretrained(scratch)
        model_folder.write_recipe(scratch, teacher.model, "teacher", teacher.model_dump(), history=history)


if __name__ == "__main__":
    main(*sys.argv[1:])
