"""Writes a model that costs next to nothing: python tests/serving/free_model.py FOLDER."""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
import family_models

folder = family_models.save("distilbert", Path(sys.argv[1]))
(folder / "model.safetensors").unlink()
shape = ("batch", "length")
ids = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")]
logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 3))
nodes = [
    helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMax", ["floats", "axis"], ["largest"], keepdims=1),
    helper.make_node("Mul", ["largest", "weights"], ["logits"]),
]
weights = numpy_helper.from_array(np.array([[1, 0.9, 0.8]], np.float32), "weights")
constants = [numpy_helper.from_array(np.array([1]), "axis"), weights]
graph = helper.make_graph(nodes, "free", ids, [logits], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
(folder / "model.onnx").write_bytes(model.SerializeToString())
