"""Where an encoder family keeps its parts: names in its state dict and its config, read without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """`linears` are those of a block: query, key, value, out, up, down, in that order.

    Names of `linears` and norms are relative to a block's, `block` with the block's number. `types` are the
    token types' embeddings, if there are any. `pooler` is the layer before `classifier`, and `activation` the
    operator after it. Of the config: `layers`, `heads`, `hidden_act` and `epsilon`, the key of the
    norms' ε or its value.
    """

    embeddings: str
    types: bool
    block: str
    linears: tuple[str, str, str, str, str, str]
    attention_norm: str
    output_norm: str
    pooler: str
    activation: str
    layers: str
    heads: str
    hidden_act: str
    epsilon: str | float


FAMILIES = {
    "bert": Family(
        embeddings="bert.embeddings",
        types=True,
        block="bert.encoder.layer.{}",
        linears=(
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ),
        attention_norm="attention.output.LayerNorm",
        output_norm="output.LayerNorm",
        pooler="bert.pooler.dense",
        activation="Tanh",
        layers="num_hidden_layers",
        heads="num_attention_heads",
        hidden_act="hidden_act",
        epsilon="layer_norm_eps",
    ),
    "distilbert": Family(
        embeddings="distilbert.embeddings",
        types=False,
        block="distilbert.transformer.layer.{}",
        linears=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ),
        attention_norm="sa_layer_norm",
        output_norm="output_layer_norm",
        pooler="pre_classifier",
        activation="Relu",
        layers="n_layers",
        heads="n_heads",
        hidden_act="activation",
        epsilon=1e-12,
    ),
}
