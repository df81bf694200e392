"""What a peer is given, and what it gives. It is imported in every peer's environment: numpy at most."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages import checkpoints
from stages.core.model_folder import TOKENIZER
from stages.runtime import Classifier
from stages.runtime.calibration import Calibration


@dataclass(frozen=True)
class Task:
    """The fine-tuned model in the folder `teacher`, and the training split that it comes from.

    `pretrained` is the folder, or the hub's name, of its encoder before fine-tuning. `labels` are class
    indices, one for each of `texts`; what weighs more in training stands there more often. `vnni` says
    whether this CPU multiplies int8 without saturating.
    """

    teacher: str
    pretrained: str
    texts: list[str]
    labels: list[int]
    vnni: bool
    seed: int

    @classmethod
    def read(cls, file: Path) -> "Task":
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def copy_tokenizer(self, folder: Path) -> None:
        """Put the teacher's tokenizer into `folder`, as model folders have it."""
        for file in TOKENIZER:
            shutil.copyfile(Path(self.teacher) / file, folder / file)


class Answers(Classifier):
    """A peer's model in `folder`: `session(*encode(texts))` gives logits, shape (len(texts), labels)."""

    def __init__(self, folder: Path, encode: Callable[[list[str]], Any], session: Any):
        checkpoint = checkpoints.read(folder)
        self.labels = checkpoint.labels
        self.calibration = Calibration.of(checkpoint.calibration)
        self.inputs = encode
        self.session = session

    def encode(self, texts: list[str]) -> Any:
        return self.inputs(texts)
