"""Stage `soft_labels`: the mean of the teachers' logits, from which students learn, and how good it is.

Logits of a fitted head are flatter than those of a fine-tuned model. So that all teachers have the same say,
the logits of each are brought to the standard deviation that those of the first have over validation.
"""

import numpy as np

from stages.core import settings
from stages.core.atomic import replacing, write_json
from stages.core.errors import command
from stages.data import tables


@command
def main():
    p = settings.load()

    def logits(split: str) -> dict[str, np.ndarray]:
        return {name: np.load(f"logits/{name}/{split}.npy") for name in p.teachers}

    validation = logits("validation")
    scales = {name: validation["teacher"].std() / values.std() for name, values in validation.items()}

    def mean(split: str) -> np.ndarray:
        return np.mean([scales[name] * values for name, values in logits(split).items()], axis=0)

    labels = tables.read("validation")["label"]
    answers = validation | {"mean": mean("validation")}
    accuracy = {name: float((values.argmax(-1) == labels).mean()) for name, values in answers.items()}
    with replacing("soft_labels") as scratch:
        scratch.mkdir()
        for split in ("train", "unlabelled"):
            np.save(scratch / f"{split}.npy", mean(split))
        members = {name: teacher.model_dump() for name, teacher in p.teachers.items()}
        write_json(scratch / "teachers.json", {"teachers": members, "validation_accuracy": accuracy})
    for name, value in accuracy.items():
        print(f"{name}: {100 * value:.1f}% of validation")


if __name__ == "__main__":
    main()
