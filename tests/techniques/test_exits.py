import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import tiny_bert, word_tokenizer
from tokenizers import models, processors
from transformers import AutoModelForSequenceClassification

from stages import runtime
from stages.checkpoints import RULED_OUT, encoder, sparse_storage
from stages.core.errors import UserError
from stages.data import tables
from stages.measurement.quality import accuracy, calibration, size
from stages.runtime.calibration import Calibration, Threshold, margin, softmax
from stages.runtime.exits import confidence, leave
from stages.runtime.onnx_session import OnnxSession
from stages.runtime.torch_session import TorchSession
from stages.techniques import dynamic_int8, exits, export, structured, students, vocabulary
from stages.techniques.settings import Exits, Export
from stages.training import distillation

OUT_OF_SCOPE = 1
LABELS = tables.Labels(["balance", "oos", "transfer"], "oos")
MODELS = {"bert": tiny_bert, "distilbert": lambda: students.from_teacher_layers(tiny_bert(), [0, 1, 2])}
QUERIES = ["send money to my car", "balance", "rent a car in w20 w21 w22", "w33 w44 w55", "my money", "w50"]


def with_exits(model, layers, threshold=None, out_of_scope=OUT_OF_SCOPE):
    """`model` with exits of random heads; unless there is a `threshold`, some queries leave."""
    exits.attach(model, layers, out_of_scope)
    torch.manual_seed(2)
    for parameter in model.exits.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.config.exits["threshold"] = halfway(model, *inputs(60, 9)) if threshold is None else threshold
    return model


def halfway(model, ids, mask):
    """The threshold that half of what the first exit may answer reaches there."""
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(ids), torch.from_numpy(mask)).exit_logits[0].numpy()
    surely = confidence(logits, model.config.exits["out_of_scope"])
    return float(np.median(surely[surely > 0]))


def written(model, folder, name="exits"):
    """Folders of `model`: torch, ONNX and int8."""
    folders = [folder / f"{name}{suffix}" for suffix in ("", "-ort", "-ort-int8")]
    for place in folders:
        place.mkdir()
        word_tokenizer().save(str(place / "tokenizer.json"))
    model.save_pretrained(folders[0])
    export.apply(folders[0], folders[1], Export(parent=name))
    dynamic_int8.quantize(folders[1], folders[2], per_channel=True, reduce_range=True)
    return folders


def inputs(batch, length):
    """Random ids, their rows of every length up to `length`, in no order."""
    rng = np.random.default_rng(batch * 100 + length)
    ids = rng.integers(4, 60, (batch, length))
    mask = (np.arange(length) < rng.integers(1, length + 1, batch)[:, None]).astype(np.int64)
    return ids * mask, mask


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("layers", [[1], [2], [0], [0, 1, 2]])
@pytest.mark.parametrize("out_of_scope", [OUT_OF_SCOPE, None])
def test_the_graph_answers_as_torch_does(tmp_path, family, layers, out_of_scope):
    model = with_exits(MODELS[family](), layers, out_of_scope=out_of_scope)
    folder, ort, _ = written(model, tmp_path)
    graph, reference = OnnxSession(ort / "model.onnx", 1), TorchSession(encoder.load(folder), 1)
    used = set()
    for shape in [(1, 1), (1, 11), (2, 8), (16, 3), (33, 24)]:
        (logits, number), (expected, left) = (s.answers(*inputs(*shape)) for s in (graph, reference))
        assert number.dtype == left.dtype == np.int64
        np.testing.assert_array_equal(number, left)
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)
        used |= set(number.tolist())
    assert {0, len(layers)} <= used and len(used) >= min(len(layers) + 1, 3)


def test_torch_takes_the_first_exit_that_is_sure(tmp_path):
    """By hand: every head from the hidden states, query for query."""
    model = with_exits(tiny_bert(), [0, 2])
    ids, mask = inputs(20, 9)
    logits, number = TorchSession(model, 1).answers(ids, mask)
    for row in range(20):
        tokens = torch.from_numpy(ids[row : row + 1, : mask[row].sum()])
        with torch.inference_mode():
            states = model.bert(tokens, output_hidden_states=True).hidden_states
            read = [states[0].mean(1), states[2].mean(1)]
            heads = [
                head.classifier(torch.tanh(head.dense(x)))[0]
                for head, x in zip(model.exits.values(), read, strict=True)
            ]
            answers = [*heads, model.classifier(model.bert.pooler(states[3]))[0]]
        place = 2
        for i, head in reversed(list(enumerate(heads))):
            p = sorted(head.softmax(-1).tolist(), reverse=True)
            if head.argmax() != OUT_OF_SCOPE and p[0] - p[1] >= model.config.exits["threshold"]:
                place = i
        assert number[row] == place
        expected = answers[place].numpy().copy()
        if place < 2:
            expected[OUT_OF_SCOPE] = logits[row, OUT_OF_SCOPE]
            assert logits[row, OUT_OF_SCOPE] < RULED_OUT / 2
        np.testing.assert_allclose(logits[row], expected, atol=1e-5)


@pytest.mark.parametrize("layers", [[1], [0, 2]])
def test_a_batch_answers_as_its_queries_alone(tmp_path, layers):
    _, ort, _ = written(with_exits(tiny_bert(), layers), tmp_path)
    session = OnnxSession(ort / "model.onnx", 1)
    ids, mask = inputs(24, 10)
    logits, number = session.answers(ids, mask)
    for row in range(24):
        length = mask[row].sum()
        alone, place = session.answers(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert place == number[row]
        np.testing.assert_allclose(alone[0], logits[row], atol=1e-5)


@pytest.mark.parametrize("kind", [1, 2])
def test_none_leaves_or_all_do(tmp_path, kind):
    """Above 1 the model is the plain one, which other tools load; int8 too, to its rounding."""
    ids, mask = inputs(12, 9)
    folders = written(with_exits(tiny_bert(), [1, 2], exits.NEVER), tmp_path, "none")
    logits, number = OnnxSession(folders[kind] / "model.onnx", 1).answers(ids, mask)
    plain = AutoModelForSequenceClassification.from_pretrained(folders[0]).eval()
    expected = TorchSession(plain, 1)(ids, mask)
    np.testing.assert_allclose(logits, expected, atol=1e-5 if kind == 1 else 0.2 * np.abs(expected).max())
    assert number.tolist() == [2] * 12
    folders = written(with_exits(tiny_bert(), [1], 1e-7, out_of_scope=None), tmp_path, "all")
    logits, number = OnnxSession(folders[kind] / "model.onnx", 1).answers(ids, mask)
    assert number.tolist() == [0] * 12
    outputs = encoder.load(folders[0])(torch.from_numpy(ids), torch.from_numpy(mask))
    expected = outputs.exit_logits[0].detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5 if kind == 1 else 0.2 * np.abs(expected).max())


def test_the_outputs_and_their_types(tmp_path):
    for folder in written(with_exits(tiny_bert(), [0, 1]), tmp_path)[1:]:
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        assert {value.name: value.type for value in session.get_inputs()} == {
            "input_ids": "tensor(int64)", "attention_mask": "tensor(int64)",
        }  # fmt: skip
        assert [(value.name, value.type, value.shape) for value in session.get_outputs()] == [
            ("logits", "tensor(float)", ["batch", 3]), ("exit", "tensor(int64)", ["batch"]),
        ]  # fmt: skip


def graphs(graph):
    """The graph and all bodies inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


@pytest.mark.parametrize("layers", [[1], [0, 1, 2]])
def test_no_matrix_is_left_in_fp32(tmp_path, layers, capfd, caplog):
    """The quantizer leaves bodies alone unless told otherwise; and every weight is there once."""
    _, ort, int8 = written(with_exits(tiny_bert(), layers), tmp_path)
    OnnxSession(int8 / "model.onnx", 1)
    assert not caplog.records and not capfd.readouterr().err
    whole, plain = (onnx.load(folder / "model.onnx").graph for folder in (int8, ort))
    parts = list(graphs(whole))
    assert len(parts) == 1 + 2 * len(layers)
    constants = [a.t for part in parts for node in part.node for a in node.attribute if a.HasField("t")]
    inside = [t for part in parts[1:] for t in part.initializer if len(t.dims) > 1]
    assert not inside  # but in the main graph, where they are measured and packed
    matrices = [t for t in [*whole.initializer, *constants] if len(t.dims) > 1 and min(t.dims) > 1]
    assert not [t.name for t in matrices if t.data_type == onnx.TensorProto.FLOAT]
    floats = [t for t in plain.initializer if len(t.dims) > 1 and min(t.dims) > 1]
    assert sum(np.prod(t.dims) for t in matrices) == sum(np.prod(t.dims) for t in floats)
    products = [node.op_type for part in parts for node in part.node if "MatMul" in node.op_type]
    assert set(products) == {"MatMulInteger"}


def test_four_bit_words_keep_them(tmp_path):
    """Their bodies read what the main graph has."""
    _, ort, _ = written(with_exits(tiny_bert(), [0, 1]), tmp_path)
    (tmp_path / "int4").mkdir()
    dynamic_int8.quantize(ort, tmp_path / "int4", per_channel=True, reduce_range=True, embedding_bits=4)
    sessions = [OnnxSession(folder / "model.onnx", 1) for folder in (ort, tmp_path / "int4")]
    (expected, left), (logits, number) = (session.answers(*inputs(40, 9)) for session in sessions)
    same = left == number
    assert same.mean() > 0.7
    intents = expected[same] > RULED_OUT / 2
    assert np.corrcoef(logits[same][intents], expected[same][intents])[0, 1] > 0.8


def test_every_technique_after_them_keeps_them(tmp_path):
    """Vocabulary, torch's int8, packing and cut blocks: the exits answer on, of those queries alike."""
    model = with_exits(tiny_bert(), [1])
    structured.remove(model, [([0, 2], range(8)), ([1], range(32)), ([3], range(16))])
    encodings = word_tokenizer().encode_batch(QUERIES)
    length = max(len(encoding.ids) for encoding in encodings)
    ids, mask = (
        np.array([[*values, *[0] * (length - len(values))] for values in rows])
        for rows in ([e.ids for e in encodings], [e.attention_mask for e in encodings])
    )
    model.config.exits["threshold"] = halfway(model, ids, mask)
    folder, ort, int8 = written(model, tmp_path)
    expected = runtime.load(folder).answers(QUERIES)
    assert set(expected[1].tolist()) == {0, 1}
    np.testing.assert_allclose(runtime.load(ort).answers(QUERIES)[0], expected[0], atol=1e-5)
    for parent, name in ((folder, "packed"), (int8, "int8-packed")):
        packed = tmp_path / name
        packed.mkdir()
        shutil.copyfile(parent / "tokenizer.json", packed / "tokenizer.json")
        sparse_storage.pack(parent, packed)
        for ours, theirs in zip(*(runtime.load(f).answers(QUERIES) for f in (packed, parent)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    torch_int8 = tmp_path / "torch-int8"
    torch_int8.mkdir()
    shutil.copyfile(folder / "tokenizer.json", torch_int8 / "tokenizer.json")
    dynamic_int8.quantize(folder, torch_int8, per_channel=True, reduce_range=True)
    assert runtime.load(torch_int8).answers(QUERIES)[1].shape == (len(QUERIES),)
    assert size.breakdown(int8)["head_mb"] * 2**20 >= 2 * (16 * 16 + 16 * 3)


def test_a_smaller_vocabulary_keeps_them(tmp_path):
    words = [*word_tokenizer().get_vocab()]
    tokenizer = word_tokenizer()
    tokenizer.model = models.WordPiece({word: i for i, word in enumerate(sorted(words))}, unk_token="[UNK]")
    ids = {token: tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[*ids.items()]
    )
    model = with_exits(tiny_bert(), [0, 1])
    model.save_pretrained(tmp_path / "parent")
    tokenizer.save(str(tmp_path / "parent" / "tokenizer.json"))
    (tmp_path / "parent" / "tokenizer_config.json").write_text("{}")
    vocabulary.prune(tmp_path / "parent", tmp_path / "pruned", QUERIES, share=True)
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())
    assert config["exits"] == model.config.exits and config["vocab_size"] < 40
    expected, pruned = (runtime.load(tmp_path / name).answers(QUERIES) for name in ("parent", "pruned"))
    np.testing.assert_array_equal(pruned[1], expected[1])
    np.testing.assert_allclose(pruned[0], expected[0], atol=1e-6)


def test_a_graph_that_would_lose_them_is_refused(tmp_path):
    with_exits(tiny_bert(), [1]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has early exits, which only a written graph"):
        export.apply(tmp_path, tmp_path, Export(parent="any", method="traced"))


def test_layers_that_are_not_there():
    with pytest.raises(UserError, match="layers has 3, and the exits of 3 layers are after 0 to 2"):
        exits.attach(tiny_bert(), [1, 3], None)


def test_confidence_is_the_margin():
    logits = np.random.default_rng(0).normal(size=(2, 500, 7)).astype(np.float32) * 3
    np.testing.assert_allclose(confidence(logits, 4), np.maximum(margin(logits, 4), 0), atol=1e-6)
    top = np.sort(softmax(logits))
    np.testing.assert_allclose(confidence(logits, None), top[..., -1] - top[..., -2], atol=1e-6)


@pytest.mark.parametrize("score", ["probability", "energy", "margin"])
def test_no_threshold_rejects_what_left_early(score):
    rng = np.random.default_rng(1)
    early, last = rng.normal(size=(2, 400, 5)).astype(np.float32) * 4
    logits, number = leave(early[None], last, 0.6, OUT_OF_SCOPE)
    left = number == 0
    assert 20 < left.sum() < 380
    strict = Calibration(0.7, Threshold(OUT_OF_SCOPE, score, 1e6)).predict(logits)
    assert (strict[left] == early[left].argmax(-1)).all()
    assert (strict[~left] == OUT_OF_SCOPE).all()
    labels = rng.integers(0, 5, 400)
    fitted = calibration.fit(logits, labels, OUT_OF_SCOPE, [score], 0.2)
    assert 0.05 < fitted.temperature < 20 and np.isfinite(fitted.threshold.value)
    again = calibration.refit(logits, labels, fitted, [score], 0.2)
    assert all(np.isfinite(threshold.value) for threshold in again)
    measures = accuracy.measure(logits, labels, OUT_OF_SCOPE, fitted, 0.2)
    assert all(value is None or np.isfinite(value) for value in measures.values())


def test_a_temperature_is_not_fitted_on_what_was_ruled_out():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, 300)
    logits = rng.normal(size=(300, 5)) + 3 * np.eye(5)[labels]
    alone = calibration.fit_temperature(logits, labels)
    wrong = logits[:20].copy()
    wrong[:, OUT_OF_SCOPE] = RULED_OUT
    more = np.concatenate([logits, wrong]), np.append(labels, [OUT_OF_SCOPE] * 20)
    assert calibration.fit_temperature(*more) == pytest.approx(alone)


def validation(seed, exits_, queries=300, labels=6):
    """Logits of heads, each better than the one before, and true labels."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, labels, queries)
    skill = np.linspace(2.0, 4.0, exits_ + 1)[:, None, None] * np.eye(labels)[true]
    logits = (rng.normal(size=(exits_ + 1, queries, labels)) + skill).astype(np.float32)
    return logits[:-1], logits[-1], true


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("max_error", [0.0, 0.002, 0.03])
def test_the_threshold_keeps_to_its_error(seed, heads, max_error):
    """Counted by hand, on the answers as they are served; and no lower threshold would have kept to it."""
    early, last, labels = validation(seed, heads)
    share = 0.3
    fitted = calibration.fit(last, labels, OUT_OF_SCOPE, ["probability", "margin"], share)
    weights = exits.expected(labels, OUT_OF_SCOPE, share)

    whole = Calibration(1.0, fitted.threshold).predict(last) == labels
    outside = labels == OUT_OF_SCOPE

    def expected(values):
        return (1 - share) * values[~outside].mean() + share * values[outside].mean()

    def served_at(threshold):
        logits, number = leave(early, last, threshold, OUT_OF_SCOPE)
        right = Calibration(1.0, fitted.threshold).predict(logits) == labels
        return expected(whole & ~right), expected(right), number

    threshold, left, error = exits.choose(early, whole, labels, OUT_OF_SCOPE, weights, max_error)
    lost, accuracy_left, number = served_at(threshold)
    assert error == pytest.approx(lost) and error <= max_error
    assert accuracy_left >= expected(whole) - max_error - 1e-9
    assert left == pytest.approx([expected(number == i) for i in range(heads)])
    levels = confidence(early, OUT_OF_SCOPE)
    for lower in np.unique(levels[(levels > 0) & (levels < threshold)]):
        assert served_at(lower)[0] > max_error


def test_weights_are_the_expected_traffic():
    labels = np.array([0, 1, 2, 0])
    np.testing.assert_allclose(exits.expected(labels, 1, 0.4), [0.2, 0.4, 0.2, 0.2])
    np.testing.assert_allclose(exits.expected(labels, None, 0.0), [0.25] * 4)


HYPER = {
    "epochs": 3, "batch_size": 8, "learning_rate": 3e-2, "weight_decay": 0.0, "warmup": 0.0, "dropout": 0.0,
    "alpha": 0.5, "temperature": 2.0, "seed": 0, "freeze_embeddings": True, "scores": ["probability"],
}  # fmt: skip


@pytest.fixture
def project(models, monkeypatch):
    """models/student, and data of 60 queries a split, whose intent is told by a word."""
    rng = np.random.default_rng(0)
    named = rng.integers(0, 3, 60)
    words = [" ".join(f"w{i}" for i in [*rng.integers(20, 50, 3), 13 + label]) for label in named]
    labels = np.where(rng.random(60) < 0.2, rng.integers(0, 3, 60), named)  # some are wrong
    table = pd.DataFrame({"text": words, "intent": [LABELS.names[label] for label in labels]})
    tables.write("data", dict.fromkeys(tables.SPLITS, table), LABELS)
    distillation.SOFT_LABELS.mkdir()
    train = tables.read("train")
    np.save(distillation.SOFT_LABELS / "train.npy", 4 * np.eye(3, dtype=np.float32)[train["label"]])
    return models


@pytest.mark.parametrize("joint", [True, False])
def test_exits_are_trained_and_their_threshold_holds_on_validation(project, tmp_path, joint):
    settings = Exits(
        parent="student", layers=[1, 0], joint=joint, max_error=0.05, out_of_scope_share=0.3, **HYPER
    )
    folder = tmp_path / "made"
    folder.mkdir()
    measured = exits.apply(project / "student", folder, settings)
    losses = [epoch["loss"] for epoch in measured["history"]]
    assert losses[-1] < 0.8 * losses[0]
    shutil.copyfile(project / "student" / "tokenizer.json", folder / "tokenizer.json")

    parent, made = encoder.load(project / "student"), encoder.load(folder)
    assert made.config.exits["layers"] == [0, 1] and made.config.exits["out_of_scope"] == OUT_OF_SCOPE
    before, after = parent.base_model.state_dict(), made.base_model.state_dict()
    same = [torch.equal(before[name], after[name]) for name in before]
    assert all(same) if not joint else 0 < sum(same) < len(same)

    table = tables.read("validation")
    labels = table["label"].to_numpy()
    classifier = runtime.load(folder)
    logits, number = classifier.answers(table["text"].tolist())
    with torch.inference_mode():
        ids, mask = map(torch.from_numpy, classifier.encode(table["text"].tolist()))
        outputs = made(ids, mask)
    heads = [*outputs.exit_logits, outputs.logits] if joint else outputs.exit_logits
    for head in heads:  # each on the scale of probabilities
        assert calibration.fit_temperature(head.numpy(), labels) == pytest.approx(1, rel=1e-3)
    fitted = calibration.fit(outputs.logits.numpy(), labels, OUT_OF_SCOPE, settings.scores, 0.3)
    expected = [
        accuracy.measure(values, labels, OUT_OF_SCOPE, fitted, 0.3)["expected_accuracy_calibrated"]
        for values in (outputs.logits.numpy(), logits)
    ]
    assert expected[0] - expected[1] <= measured["exits"]["error"] + 1e-6
    assert 0 <= measured["exits"]["error"] <= 0.05
    weights = exits.expected(labels, OUT_OF_SCOPE, 0.3)
    for i, at in enumerate(measured["exits"]["at"]):
        assert at == {"layer": i, "left": pytest.approx(weights[number == i].sum())}
    assert (number < 2).any()


def test_the_loss_is_the_sum_over_the_heads(tmp_path):
    model = with_exits(tiny_bert(), [0, 2])
    trainer = distillation.DistillationTrainer(
        model, distillation.DistillationTrainingArguments(str(tmp_path), alpha=0.3, temperature=2.0)
    )
    ids, mask = map(torch.from_numpy, inputs(4, 7))
    labels, teacher = torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "teacher_logits": teacher}
    outputs = model(ids, mask)
    expected = sum(
        distillation.distillation_loss(logits, teacher, labels, 0.3, 2.0)
        for logits in (outputs.exit_logits[0], outputs.exit_logits[1], outputs.logits)
    )
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected)
