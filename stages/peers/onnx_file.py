"""ONNX files that others have exported, for our runtime."""

from pathlib import Path


def without_token_types(model: Path, to: Path) -> None:
    """Write `model` with `token_type_ids`, if it is an input, computed as zeros: queries have one segment."""
    import onnx
    from onnx import helper

    loaded = onnx.load(model)
    graph = loaded.graph
    for given in [given for given in graph.input if given.name == "token_type_ids"]:
        graph.input.remove(given)
        zeros = helper.make_node("Sub", ["input_ids", "input_ids"], [given.name], "zero_token_types")
        graph.node.insert(0, zeros)
    onnx.save(loaded, to)
