import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, ErnieConfig, ErnieForSequenceClassification

from stages.checkpoints import encoder, sparse_storage
from stages.core.errors import UserError
from stages.techniques.students import from_teacher_layers


def test_blocks_of_a_bert(bert):
    blocks = encoder.blocks(bert)
    assert [(block.head_size, block.heads, block.hidden) for block in blocks] == [(4, 4, 32)] * 3
    layer = bert.bert.encoder.layer[1]
    attention = layer.attention
    assert blocks[1].query is attention.self.query
    assert blocks[1].key is attention.self.key
    assert blocks[1].value is attention.self.value
    assert blocks[1].out is attention.output.dense
    assert blocks[1].up is layer.intermediate.dense
    assert blocks[1].down is layer.output.dense


def test_a_student_has_the_same_blocks(bert):
    """Part for part the layers that it was made of."""
    theirs, ours = encoder.blocks(bert), encoder.blocks(from_teacher_layers(bert, [2, 0]))
    assert len(ours) == 2
    for mine, source in zip(ours, (theirs[2], theirs[0]), strict=True):
        assert (mine.head_size, mine.heads, mine.hidden) == (4, 4, 32)
        for part in ("query", "key", "value", "out", "up", "down"):
            assert torch.equal(getattr(mine, part).weight, getattr(source, part).weight)


def test_linears_are_those_of_the_blocks(bert):
    """Pooler, pre-classifier and head are left out."""
    for model in (bert, from_teacher_layers(bert, [0, 1])):
        parts = [part for block in encoder.blocks(model) for part in vars(block).values()]
        expected = {id(part) for part in parts if isinstance(part, nn.Linear)}
        linears = encoder.linears(model)
        assert {id(linear) for linear in linears.values()} == expected
        assert len(linears) == len(expected) == 6 * len(encoder.blocks(model))
        assert all(model.base_model.get_submodule(name) is linear for name, linear in linears.items())


def test_blocks_of_another_kind():
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 1}
    model = ErnieForSequenceClassification(ErnieConfig(vocab_size=60, **sizes))
    with pytest.raises(
        UserError, match=r"^the encoder is a ernie: .* bert, distilbert, .*modernbert$"
    ) as error:
        encoder.blocks(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("packed", [False, True])
def test_load(kind, packed, bert, tmp_path):
    model = bert if kind == "bert" else from_teacher_layers(bert, [0, 2])
    with torch.no_grad():
        encoder.blocks(model)[0].up.weight[:, 2:] = 0.0
    folder = tmp_path / "plain"
    model.save_pretrained(folder)
    expected = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    if packed:
        folder = tmp_path / "packed"
        folder.mkdir()
        sparse_storage.pack(tmp_path / "plain", folder)
        assert not (folder / "model.safetensors").exists()
    loaded = encoder.load(folder)
    assert not loaded.training
    assert loaded.config.id2label == bert.config.id2label
    state = loaded.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_a_folder_without_torch_weights(bert, tmp_path):
    bert.config.save_pretrained(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    with pytest.raises(UserError, match=f"^{tmp_path} holds no torch weights in fp32") as error:
        encoder.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("frozen", [True, False])
def test_freeze_embeddings(bert, frozen):
    student = from_teacher_layers(bert, [0])
    encoder.freeze_embeddings(student, frozen)
    fixed = {name for name, p in student.named_parameters() if not p.requires_grad}
    embeddings = {f"distilbert.embeddings.{part}_embeddings.weight" for part in ("word", "position")}
    assert fixed == (embeddings if frozen else set())
    encoder.freeze_embeddings(student, False)
    assert all(p.requires_grad for p in student.parameters())
