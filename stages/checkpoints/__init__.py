"""How a model folder's files are written and read; `read` is the one reader of a whole folder."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stages.checkpoints import families
from stages.core.model_folder import label_names

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

CALIBRATION = "calibration.json"
# The logit of a label that an early exit may not answer: finite, and its probability is 0.
RULED_OUT = -1e9


@dataclass(frozen=True)
class Checkpoint:
    """What a model folder holds.

    `labels` are in the order of the class indices; `calibration` is calibration.json or None. The rest is
    read when it is asked for.
    """

    folder: Path
    labels: list[str]
    calibration: dict | None

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_bytes())

    @property
    def pad_token_id(self) -> int:
        """The id that fills up the shorter queries of a batch, which the attention mask leaves out."""
        return self.config.get("pad_token_id") or 0

    @property
    def exits(self) -> list[int]:
        """How many layers come before each early exit; of a model without exits, none."""
        return (self.config.get("exits") or {"layers": []})["layers"]

    @property
    def positions(self) -> float:
        """The most tokens that the model has positions for."""
        return families.positions(self.config)

    @property
    def is_onnx(self) -> bool:
        return any(self.folder.glob("model.onnx*"))

    def onnx(self) -> Path | bytes:
        """The ONNX graph, as a file or as its bytes."""
        packed = self.folder / "model.onnx.sparse"
        if packed.exists():
            from stages.checkpoints.sparse_storage import unpack

            return unpack(packed)
        return self.folder / "model.onnx"

    def torch(self) -> "torch.nn.Module":
        """The torch classifier, fp32 or dynamic int8, in evaluation mode."""
        from stages.checkpoints import encoder, torch_int8

        int8 = (self.folder / torch_int8.FILE).exists()
        return torch_int8.load(self.folder) if int8 else encoder.load(self.folder)


def read(folder: Path | str) -> Checkpoint:
    """The model folder; a UserError where there is none."""
    folder = Path(folder)
    labels = label_names(folder)
    file = folder / CALIBRATION
    return Checkpoint(folder, labels, json.loads(file.read_text()) if file.exists() else None)
