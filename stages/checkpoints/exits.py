"""Early exits: classifiers of earlier hidden states than the last, in a classifier with BERT's blocks.

DeeBERT (Xin et al., 2020, arXiv:2004.12993) and FastBERT (Liu et al., 2020, arXiv:2004.02178). `exits` in
config.json has

| key            | what                                                                                |
|----------------|-------------------------------------------------------------------------------------|
| `layers`       | how many layers come before each exit, ascending; 0: it reads the embeddings        |
| `threshold`    | a query leaves at the first exit whose confidence reaches it; above 1: none leaves  |
| `out_of_scope` | the index of the label that the last layer alone may answer, or null                |

and stages.runtime.exits says who leaves. Other tools load such weights as the plain classifier.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from stages.checkpoints import families

ACTIVATIONS = {"Tanh": nn.Tanh, "Relu": nn.ReLU, "Gelu": nn.GELU}


class Exit(nn.Module):
    """A head like the classifier's own, over the mean of the tokens: early on, the first knows little."""

    def __init__(self, config: PretrainedConfig, layer: int):
        super().__init__()
        self.layer = layer
        width: int = config.hidden_size  # type: ignore[assignment]
        labels: int = config.num_labels  # type: ignore[assignment]
        self.dense = nn.Linear(width, width)
        self.activation = ACTIVATIONS[families.of({"model_type": config.model_type}).activation]()
        self.classifier = nn.Linear(width, labels)

    def forward(self, states: tuple[torch.Tensor, ...], attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (batch, labels) of the `states` (batch, length, width) of the embeddings and each layer."""
        tokens = states[self.layer]
        weights = attention_mask[..., None].to(tokens.dtype)
        mean = (weights * tokens).sum(1) / weights.sum(1)
        return self.classifier(self.activation(self.dense(mean)))


@dataclass
class OutputWithExits(SequenceClassifierOutput):
    """The last layer's `logits`, and `exit_logits` of shape (exits, batch, labels)."""

    exit_logits: torch.Tensor | None = None


class WithExits:
    """The forward pass of a classifier that has exits: through all of its layers."""

    exits: nn.ModuleDict

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options) -> OutputWithExits:
        options["output_hidden_states"] = True
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)  # type: ignore[misc]
        logits = [head(outputs.hidden_states, attention_mask) for head in self.exits.values()]
        return OutputWithExits(logits=outputs.logits, exit_logits=torch.stack(logits))


def heads(outputs: SequenceClassifierOutput) -> list[torch.Tensor]:
    """The logits (batch, labels) of every head of a classifier, with exits or not, the last layer's last."""
    return [*outputs.get("exit_logits", ()), outputs.logits]


def attach(model: PreTrainedModel) -> None:
    """Give `model`, a classifier with BERT's blocks, the exits that its config has, untrained."""
    kind = type(model)
    model.exits = nn.ModuleDict(
        {str(layer): Exit(model.config, layer) for layer in model.config.exits["layers"]}
    )
    model.__class__ = type(kind.__name__, (WithExits, kind), {})
