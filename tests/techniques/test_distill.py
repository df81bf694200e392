import pytest
import torch

from stages.core.errors import UserError
from stages.techniques.students import from_teacher_layers, indices, of_teacher


def test_all_layers_compute_what_the_teacher_computes(bert):
    """With every layer taken, the student's encoder is the teacher's: token types are folded in rightly."""
    student = from_teacher_layers(bert, [0, 1, 2]).eval()
    ids = torch.tensor([[2, 17, 8, 33, 3], [2, 9, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        theirs = bert.bert(ids, attention_mask=mask).last_hidden_state
        ours = student.distilbert(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=1e-5, atol=1e-6)


def test_chosen_layers_head_and_labels(bert):
    student = from_teacher_layers(bert, [2, 0])
    blocks = student.distilbert.transformer.layer
    assert len(blocks) == student.config.n_layers == 2
    assert torch.equal(blocks[0].ffn.lin1.weight, bert.bert.encoder.layer[2].intermediate.dense.weight)
    assert torch.equal(blocks[1].attention.q_lin.bias, bert.bert.encoder.layer[0].attention.self.query.bias)
    assert torch.equal(student.pre_classifier.weight, bert.bert.pooler.dense.weight)
    assert torch.equal(student.classifier.bias, bert.classifier.bias)
    assert student.config.id2label == bert.config.id2label == {0: "balance", 1: "oos", 2: "transfer"}
    assert student.config.label2id == bert.config.label2id


def test_the_teacher_is_left_alone(bert):
    before = {name: tensor.clone() for name, tensor in bert.state_dict().items()}
    student = from_teacher_layers(bert, [0])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in bert.state_dict().items())


def test_layers_the_teacher_has_not():
    with pytest.raises(UserError, match="layers have 3, and its teacher's layers are 0 to 2"):
        indices([0, 3], 3)
    with pytest.raises(UserError, match="layers are last-4, and its teacher has 3"):
        indices("last-4", 3)


def test_layers_by_a_rule():
    assert [indices(rule, 12) for rule in ("first-2", "last-3")] == [[0, 1], [9, 10, 11]]
    assert indices("spaced-6", 12) == [0, 2, 4, 7, 9, 11]  # DistilBERT's
    assert [indices(f"spaced-{n}", 6) for n in (1, 2, 3)] == [[0], [0, 5], [0, 2, 5]]


def test_a_teacher_whose_layers_compute_otherwise(bert):
    distilbert = from_teacher_layers(bert, [0, 1])
    with pytest.raises(UserError, match="a bert is not made of layers of a distilbert"):
        of_teacher(distilbert, [0], "bert")
    assert of_teacher(distilbert, [1]).config.n_layers == 1


def test_a_teacher_with_heads_removed(bert):
    bert.config.layer_shapes = [[2, 32], [4, 16], [4, 32]]
    with pytest.raises(UserError, match="teacher-layers makes a student of a whole BERT"):
        of_teacher(bert, [0])
