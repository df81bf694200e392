"""Early exits: heads after early layers, where a query that they are sure of leaves.

DeeBERT (Xin et al., 2020, arXiv:2004.12993) and FastBERT (Liu et al., 2020, arXiv:2004.02178). An exit
answers labels in scope alone; the last layer decides on out of scope.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.checkpoints import encoder
from stages.checkpoints import exits as checkpoint
from stages.core.errors import UserError
from stages.data import tables
from stages.measurement.enough import FEWEST
from stages.measurement.quality import calibration
from stages.runtime import exits
from stages.techniques.settings import Exits
from stages.training import loop
from stages.training.distillation import distil

NEVER = 2.0  # a confidence above 1


def apply(parent: Path, folder: Path, settings: Exits) -> dict:
    """Write into `folder` the torch model `parent` with exits; returns `history` and `exits`.

    `exits` has the threshold, and what it comes to on validation: the `error` let through, and for each exit
    its layer and the share of the queries that leave there, weighed as `settings.out_of_scope_share` says.
    """
    model = encoder.load(parent)
    out_of_scope = tables.read_labels().out_of_scope_id
    attach(model, settings.layers, out_of_scope)
    if settings.joint:
        encoder.freeze_embeddings(model, settings.freeze_embeddings)
    else:
        model.requires_grad_(False)
        model.get_submodule("exits").requires_grad_(True)
    history = distil(model, parent, folder.name, settings)

    table = tables.read("validation")
    labels = table["label"].to_numpy()
    exit_logits, logits = tempered(model, loop.encode(table, parent), labels)
    share = settings.out_of_scope_share
    if share is None:
        share = float((labels == out_of_scope).mean())
    full = calibration.fit(logits, labels, out_of_scope, settings.scores, share).predict(logits) == labels
    weights = expected(labels, out_of_scope, share)
    threshold, left, error = choose(exit_logits, full, labels, out_of_scope, weights, settings.max_error)
    model.config.exits["threshold"] = threshold
    model.save_pretrained(folder)
    at = [{"layer": layer, "left": share} for layer, share in zip(settings.layers, left, strict=True)]
    return {"history": history, "exits": {"threshold": threshold, "error": error, "at": at}}


def attach(model: PreTrainedModel, layers: list[int], out_of_scope: int | None) -> None:
    """Give `model` exits after `layers`, that start as its own head, and that no query leaves at.

    A UserError, if it is of another family, or has exits, or no such layers.
    """
    count = model.config.num_hidden_layers
    if layers[-1] >= count:
        raise UserError(
            f"exits: layers has {layers[-1]}, and the exits of {count} layers are after 0 to {count - 1}"
        )
    model.config.exits = {"layers": layers, "threshold": NEVER, "out_of_scope": out_of_scope}
    checkpoint.attach(model)
    family = encoder.family(model)
    for head in model.get_submodule("exits").children():
        head.dense.load_state_dict(model.get_submodule(family.dense).state_dict())
        head.classifier.load_state_dict(model.get_submodule(family.output).state_dict())


@torch.inference_mode()
def tempered(
    model: PreTrainedModel, examples: list[dict], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the logits of every head by its own temperature on the examples, so that all share one scale.

    The temperatures are folded into the heads' last layers. Returns the new logits of the exits, shape
    (exits, examples, labels), and of the last layer, (examples, labels). Of too few examples all are 1.
    """
    classifiers = [head.classifier for head in model.get_submodule("exits").children()]
    classifiers.append(model.get_submodule(encoder.family(model).output))
    logits = loop.logits(model, examples, of=lambda outputs: torch.stack(checkpoint.heads(outputs), 1))
    logits = logits.swapaxes(0, 1)
    for values, classifier in zip(logits, classifiers, strict=True):
        temperature = calibration.fit_temperature(values, labels) if len(labels) >= FEWEST else 1.0
        values /= temperature
        for parameter in classifier.parameters():
            parameter /= temperature
    return logits[:-1], logits[-1]


def expected(labels: np.ndarray, out_of_scope: int | None, share: float) -> np.ndarray:
    """The weight of each query where a `share` of them is out of scope, shape (queries,), with the sum 1.

    Without queries on both sides, all weigh the same.
    """
    outside = labels == out_of_scope
    if outside.all() or not outside.any():
        return np.full(len(labels), 1 / len(labels))
    return np.where(outside, share / outside.sum(), (1 - share) / (~outside).sum())


def choose(
    exit_logits: np.ndarray,
    full: np.ndarray,
    labels: np.ndarray,
    out_of_scope: int | None,
    weights: np.ndarray,
    max_error: float,
) -> tuple[float, list[float], float]:
    """The lowest threshold that keeps to `max_error`; the weight that leaves at each exit; the error.

    `exit_logits` has shape (exits, queries, labels), on one scale. `full` says which queries the last layer,
    calibrated, answers rightly, and `weights` what they count. The error is the weight of those among them
    that leave with a wrong answer. Right answers that an exit adds do not make up for it: on a few hundred
    queries they do so by chance. One threshold serves all exits: on one scale, the last query to leave is as
    uncertain at each of them.
    """
    confidence = exits.confidence(exit_logits, out_of_scope)
    lost = weights * (full & (exit_logits.argmax(axis=-1) != labels))
    levels = np.unique(confidence[confidence > 0]).tolist()
    for below, level in zip([0.0, *levels], levels, strict=False):
        sure = confidence >= np.float32(level)
        first = sure & (sure.cumsum(axis=0) == 1)
        error = float(lost[first].sum())
        if error <= max_error:
            middle = float(np.float32((below + level) / 2))
            return middle if middle > below else level, (first * weights).sum(axis=1).tolist(), error
    return NEVER, [0.0] * len(exit_logits), 0.0
