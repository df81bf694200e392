"""Unstructured pruning: encoder weights are set to zero, by magnitude or movement, during a distillation."""

from pathlib import Path

from transformers import PreTrainedModel, TrainerCallback

from stages.checkpoints import encoder
from stages.techniques import masks, settings
from stages.techniques.magnitude import Magnitude
from stages.techniques.movement import HardMovement, SoftMovement
from stages.training.distillation import distil

Settings = settings.MagnitudePruning | settings.HardMovementPruning | settings.SoftMovementPruning


def apply(parent: Path, folder: Path, variant: Settings) -> dict:
    """Write into `folder` the torch model `parent` with zeros; returns `history` and `sparsity`."""
    model = encoder.load(parent)
    encoder.freeze_embeddings(model, variant.freeze_embeddings)
    pruning = callback(model, variant)
    history = distil(
        model,
        parent,
        folder.name,
        variant,
        callbacks=[pruning],
        optimizer=masks.optimizer(model, variant) if isinstance(variant, settings.MovementPruning) else None,
        penalty=pruning.penalty if isinstance(pruning, SoftMovement) else None,
    )
    masks.detach(model)
    model.save_pretrained(folder)
    return {"history": history, "sparsity": masks.zeros(model)}


def callback(model: PreTrainedModel, variant: Settings) -> TrainerCallback:
    if isinstance(variant, settings.SoftMovementPruning):
        return SoftMovement(model, variant.penalty, variant.threshold, variant.begin, variant.end)
    if isinstance(variant, settings.HardMovementPruning):
        return HardMovement(model, variant.sparsity, variant.begin, variant.end)
    return Magnitude(model, variant)
