"""A classification head fitted before fine-tuning."""

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.checkpoints import encoder
from stages.training import loop


def fit(model: PreTrainedModel, examples: list[dict]) -> None:
    """Set the last linear layer of `model` to the logistic regression of its features of the `examples`.

    Fine-tuning from there distorts the encoder less than from a random head ("LP-FT", Kumar et al., 2022,
    arXiv:2202.10054). Examples count by their `weight`. Labels that no example has keep their weights.
    """
    from sklearn.linear_model import LogisticRegression

    name, head = encoder.output_layer(model)
    place, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(place), attribute, torch.nn.Identity())
    features = loop.logits(model, examples, bar="features")
    setattr(model.get_submodule(place), attribute, head)
    labels = [example["labels"] for example in examples]
    counts = [example.get("weight", 1.0) for example in examples]
    regression = LogisticRegression(max_iter=300).fit(features, labels, sample_weight=counts)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # of which scikit-learn gives the second against the first
        weight, bias = (np.concatenate([-values, values]) / 2 for values in (weight, bias))
    with torch.no_grad():
        head.weight[regression.classes_] = torch.tensor(weight, dtype=head.weight.dtype)
        head.bias[regression.classes_] = torch.tensor(bias, dtype=head.bias.dtype)
