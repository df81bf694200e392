import copy
import shutil

import family_models
import numpy as np
import onnxruntime
import pytest
import torch
from family_models import FAMILIES
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from stages import runtime
from stages.checkpoints import encoder, families, pretrained
from stages.core.errors import UserError
from stages.runtime.exits import confidence
from stages.techniques import exits, export, qat, structured, students
from stages.techniques.settings import Export

EACH = pytest.mark.parametrize("family", FAMILIES)
WRITTEN = [name for name in FAMILIES if getattr(families.FAMILIES.get(name), "written", False)]


def batch(model):
    """Four queries of 3 to 12 tokens, padded."""
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(5, 390, (4, 12)), np.ones((4, 12), np.int64)
    for row, length in enumerate((12, 7, 3, 9)):
        ids[row, length:], mask[row, length:] = model.config.pad_token_id, 0
    return ids, mask


@torch.inference_mode()
def logits(model, ids, mask):
    return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()


def exported(model, folder):
    """A folder beside `folder` with the written graph of `model`."""
    model.save_pretrained(folder)
    (folder / "ort").mkdir()
    export.apply(folder, folder / "ort", Export(parent="any"))
    return folder / "ort"


@EACH
def test_blocks_have_the_encoders_weights_and_no_others(family):
    model = family_models.model(family)
    inside = {id(linear) for linear in encoder.linears(model).values()}
    for block in encoder.blocks(model):
        parts = {block.query, block.key, block.value, block.out, block.up, block.down, *block.positions}
        assert {id(part) for part in parts} <= inside
        inside -= {id(part) for part in parts}
        assert (block.heads, block.head_size, block.hidden) == (4, 4, 32)
    assert not inside


@EACH
def test_a_student_of_all_layers_is_its_teacher(family):
    model = family_models.model(family)
    ids, mask = batch(model)
    student = students.of_teacher(model, [0, 1, 2], "own")
    np.testing.assert_array_equal(logits(student, ids, mask), logits(model, ids, mask))
    assert student is not model and student.config.id2label == model.config.id2label


@EACH
def test_a_student_has_the_layers_that_were_chosen(family, tmp_path):
    """Against the teacher with the other layer left out of its own list."""
    model = family_models.model(family)
    ids, mask = batch(model)
    student = students.of_teacher(model, [0, 2], "own")
    student.save_pretrained(tmp_path)
    names = families.of(model.config.to_dict())
    whole = copy.deepcopy(model)
    if names.shared_layers:
        whole.config.num_hidden_layers = whole.albert.encoder.config.num_hidden_layers = 2
    else:
        path = f"{names.base}.{names.block}".partition(".{}")[0]
        del whole.get_submodule(path)[1]
        whole.config.num_hidden_layers = 2
        if names.by_layer:
            whole.config.layer_types = [whole.config.layer_types[i] for i in (0, 2)]
    expected = logits(whole.eval(), ids, mask)
    assert abs(expected - logits(model, ids, mask)).max() > 1e-3
    np.testing.assert_allclose(logits(encoder.load(tmp_path), ids, mask), expected, rtol=1e-5, atol=1e-6)


def test_a_modernbert_begins_with_its_first_layer():
    with pytest.raises(
        UserError, match=r"no student of the layers \[1, 2\]: its first layer alone has no norm"
    ):
        students.of_teacher(family_models.model("modernbert"), [1, 2])


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_a_bert_of_all_layers_is_its_teacher(family):
    model = family_models.model(family)
    ids, mask = batch(model)
    np.testing.assert_allclose(
        logits(students.as_bert(model, [0, 1, 2]), ids, mask), logits(model, ids, mask), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_a_distilbert_has_the_encoder_of_a_roberta(family):
    model = family_models.model(family)
    ids, mask = batch(model)
    student = students.of_teacher(model, [0, 1, 2], "distilbert").eval()
    with torch.no_grad():
        theirs, ours = (
            made.base_model(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
            for made in (model, student)
        )
    real = torch.tensor(mask).bool()
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-5, atol=1e-5)


@EACH
def test_masked_heads_and_columns_are_as_good_as_removed(family, tmp_path):
    """And the model of other shapes is read again as it was written."""
    model = family_models.model(family)
    ids, mask = batch(model)
    reason = families.of(model.config.to_dict()).refusal("heads")
    heads = [0, 1, 2, 3] if reason else [1, 3]
    kept = [(heads, [0, *range(5, 32, 3)])] * len(encoder.blocks(model))
    before = logits(model, ids, mask)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for block, (heads, columns) in zip(encoder.blocks(masked), kept, strict=True):
            stays = torch.isin(torch.arange(16) // 4, torch.tensor(heads))
            block.out.weight[:, ~stays] = 0
            block.down.weight[:, ~torch.isin(torch.arange(32), torch.tensor(columns))] = 0
    structured.remove(model, kept)
    expected = logits(masked, ids, mask)
    assert abs(expected - before).max() > 1e-2
    np.testing.assert_allclose(logits(model, ids, mask), expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(logits(encoder.load(tmp_path), ids, mask), logits(model, ids, mask))


@pytest.mark.parametrize("family", WRITTEN)
@pytest.mark.parametrize("cut", [False, True])
def test_the_written_graph_computes_what_torch_does(family, cut, tmp_path):
    model = family_models.model(family)
    ids, mask = batch(model)
    if cut:
        heads = [0, 1, 2, 3] if families.of(model.config.to_dict()).refusal("heads") else [0, 2]
        structured.remove(model, [(heads, [1, 5, 9])] * len(encoder.blocks(model)))
        encoder.factorise(model, 4)
    session = onnxruntime.InferenceSession(exported(model, tmp_path) / "model.onnx")
    given = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    expected = logits(model, ids, mask)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
    alone = session.run(None, {"input_ids": ids[2:3, :3], "attention_mask": mask[2:3, :3]})[0]
    np.testing.assert_allclose(alone, expected[2:3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", WRITTEN)
def test_exits_leave_alike_in_torch_and_in_the_written_graph(family, tmp_path):
    model = family_models.model(family)
    exits.attach(model, [0, 2], 1)
    texts = family_models.corpus()[::40]
    family_models.save(family, tmp_path, made=model)
    with torch.inference_mode():
        heads = model(*map(torch.tensor, runtime.load(tmp_path).encode(texts))).exit_logits
    levels = np.unique(confidence(heads[0].numpy(), 1))
    model.config.exits["threshold"] = float(levels[len(levels) // 2 - 1 :][:2].mean())
    family_models.save(family, tmp_path, made=model)
    torch_logits, torch_number = runtime.load(tmp_path).answers(texts)
    folder = exported(model, tmp_path)
    shutil.copyfile(tmp_path / "tokenizer.json", folder / "tokenizer.json")
    onnx_logits, onnx_number = runtime.load(folder).answers(texts)
    np.testing.assert_array_equal(onnx_number, torch_number)
    np.testing.assert_allclose(onnx_logits, torch_logits, rtol=1e-4, atol=1e-4)
    assert len({*torch_number}) > 1


@EACH
def test_rounding_for_int8_comes_and_goes(family):
    model = family_models.model(family)
    ids, mask = batch(model)
    before = logits(model, ids, mask)
    qat.prepare(model, per_channel=True, reduce_range=False)
    rounded = logits(model, ids, mask)
    assert 0 < abs(rounded - before).max() < 0.3 * abs(before).max()
    outputs = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    outputs.logits.sum().backward()
    assert all(block.up.parametrizations.weight.original.grad.any() for block in encoder.blocks(model))
    qat.convert(model)
    assert abs(logits(model, ids, mask) - before).max() > 0


@pytest.mark.parametrize(
    ("kind", "need", "reason"),
    [
        ("mpnet", "heads", "share one relative bias"),
        ("deberta-v2", "exits", "need a graph that `export` writes itself"),
        ("modernbert", "4-bit embeddings", "need a graph that `export` writes itself"),
        ("modernbert", "relations", "one matrix gives its queries, keys and values"),
        ("ernie", "exits", "the encoder is a ernie"),
    ],
)
def test_what_a_family_refuses_is_one_line(kind, need, reason):
    with pytest.raises(UserError, match=reason) as caught:
        families.check(kind, [need], "model")
    assert "\n" not in str(caught.value)
    families.check("roberta", ["heads", "exits", "relations", "4-bit embeddings"], "model")


@EACH
def test_as_many_tokens_as_the_model_has_positions_for(family, tmp_path):
    model = family_models.model(family)
    most = encoder.positions(model)
    if most is not None:
        assert most == family_models.TOKENS == families.positions(model.config.to_dict())
        full = np.full((1, most), 7)
        assert np.isfinite(logits(model, full, np.ones_like(full))).all()


@pytest.mark.parametrize(
    ("family", "weights"),
    [*((family, "safetensors") for family in FAMILIES), ("roberta", "bin"), ("xlm-roberta", "sharded")],
)
def test_a_classifier_as_the_hub_has_it(family, weights, tmp_path):
    """Its labels in another order and case; its tokenizer is that of its tokenizer.json, to the id."""
    model = family_models.model(family)
    family_models.save(family, tmp_path / "own", weights, made=model)
    found = pretrained.found(str(tmp_path / "own"), ["Transfer", "balance", "OOS"], keep_head=True)
    ids, mask = batch(model)
    expected = logits(model, ids, mask)[:, [2, 0, 1]]
    np.testing.assert_array_equal(logits(found.model.eval(), ids, mask), expected)
    assert "3 layers, 16 wide" in str(found) and "matched by name but for case" in str(found)
    folder = tmp_path / "saved"
    folder.mkdir()
    pretrained.save_tokenizer(str(tmp_path / "own"), folder, family_models.TOKENS)
    theirs, ours = family_models.tokenizer(family), Tokenizer.from_file(str(folder / "tokenizer.json"))
    published = AutoTokenizer.from_pretrained(folder)
    assert ours.truncation["max_length"] == family_models.TOKENS
    for text in (*family_models.corpus()[::60], "What's my  balance, Café ½?"):
        assert ours.encode(text).ids == theirs.encode(text).ids == published(text)["input_ids"]
