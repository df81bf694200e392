"""ONNX export with dynamic shapes: written for BERT's blocks, traced by torch for other encoders."""

import json
import logging
import shutil
import warnings
from pathlib import Path

from stages.checkpoints import families
from stages.checkpoints.sparse_storage import read_weights
from stages.core.errors import UserError
from stages.techniques import graph
from stages.techniques.settings import Export


def apply(parent: Path, folder: Path, settings: Export) -> dict:
    """Write the torch classifier in `parent` as folder/model.onnx, and its config.json.

    Inputs `input_ids` and `attention_mask`, int64 of shape (batch, length), both dimensions
    dynamic; output `logits`, float32 of shape (batch, labels), and `exit` of a model with early exits.
    """
    config = json.loads((parent / "config.json").read_text())
    family = families.FAMILIES.get(config["model_type"])
    can = family and family.written and config[family.hidden_act] in graph.GELUS
    if settings.method == "written" and family and can:
        graph.write(read_weights(parent), config, family, folder / "model.onnx")
    elif config.get("exits"):
        raise UserError(f"{parent} has early exits, which only a written graph of a model with GELU keeps")
    else:
        traced(parent, folder / "model.onnx")
    shutil.copyfile(parent / "config.json", folder / "config.json")
    return {}


def traced(parent: Path, file: Path) -> None:
    """Write the torch classifier in `parent` by torch's exporter and ONNX Runtime's optimiser of BERTs."""
    import torch
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    from stages.checkpoints import encoder

    class Logits(torch.nn.Module):
        """The model as the graph should be: two inputs, one output."""

        def __init__(self, model: torch.nn.Module):
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    # Scaled-dot-product attention exports to twice the operators of the plain one.
    model = encoder.load(parent, attn_implementation="eager")
    ids = torch.ones(2, 8, dtype=torch.int64)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            Logits(model),
            (ids, torch.ones_like(ids)),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": shape, "attention_mask": shape},
            external_data=False,
            verbose=False,
        )
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    options = FusionOptions("bert")
    options.enable_skip_layer_norm = all(norm.bias is not None for norm in norms)  # ModernBERT's have none
    optimized = optimize_model(
        str(file),
        model_type="bert",
        num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size,
        opt_level=0,
        optimization_options=options,
    )
    _clear_metadata(optimized.model.graph)
    del optimized.model.metadata_props[:]
    optimized.save_model_to_file(str(file))


def _clear_metadata(graph) -> None:
    """Remove the exporter's stack traces, with this machine's paths: the same model gives the same file."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
