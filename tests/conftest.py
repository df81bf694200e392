import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil

import pytest


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that all processes end at about the same time."""
    longest = ("test_pipeline.py", "test_experiments.py", "test_stages.py")
    items.sort(key=lambda item: item.path.name not in longest)


def tiny_bert():
    """A BERT classifier of 3 layers, 16 wide, with weights by seed."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    labels = dict(enumerate(["balance", "oos", "transfer"]))
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=60,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=24,
            initializer_range=0.5,  # logits far enough apart to tell models from each other
            id2label=labels,
            label2id={name: i for i, name in labels.items()},
            problem_type="single_label_classification",
        )
    )
    return model.eval()


def tiny_distilbert(**options):
    """A DistilBERT classifier of one layer, 16 wide, with weights by seed; `options` for its config."""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    config = {
        "vocab_size": 60,
        "dim": 16,
        "n_layers": 1,
        "n_heads": 4,
        "hidden_dim": 32,
        "max_position_embeddings": 24,
        "num_labels": 3,
    }
    return DistilBertForSequenceClassification(DistilBertConfig(**config | options))


def tiny_roberta(labels=("balance", "oos", "transfer"), **options):
    """A RoBERTa classifier of one layer, 16 wide, for `bpe_tokenizer`, which reads 20 tokens."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(1)
    config = {
        "vocab_size": 400,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 22,
        "initializer_range": 0.5,
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }
    return RobertaForSequenceClassification(RobertaConfig(**config | options)).eval()


def bpe_tokenizer():
    """A byte-level BPE with RoBERTa's special tokens, trained on the embedded corpus."""
    from pathlib import Path

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(Path(__file__).parents[1] / "stages/data/sample/banking.yaml")], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def save_as_hub(model, tokenizer, folder):
    """Write both as a hub's repository has them."""
    from transformers import PreTrainedTokenizerFast

    named = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("unk", "pad", "cls", "sep")}
    if tokenizer.token_to_id("<s>") is not None:
        named = {"unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def random_rows(count=40):
    """Training examples of 3 to 11 tokens, with one of 3 labels."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    return [
        {"input_ids": torch.tensor(rng.integers(5, 60, rng.integers(3, 12))), "labels": int(rng.integers(3))}
        for _ in range(count)
    ]


def shaken(model):
    """`model` with biases and norms that are not those of a fresh one."""
    import torch

    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def small_trainer(model, *callbacks, epochs, optimizer=None):
    """A Trainer of `model` on random_rows, 5 steps an epoch."""
    from transformers import Trainer

    from stages.techniques.settings import Training
    from stages.training import loop

    hyper = Training(
        epochs=epochs, batch_size=8, learning_rate=1e-3, weight_decay=0.01, warmup=0.1, dropout=0.0
    )
    return Trainer(
        model,
        loop.arguments(hyper, "small", 0),
        train_dataset=random_rows(),
        eval_dataset=random_rows(8),
        data_collator=loop.PadToLongest(0),
        compute_metrics=loop.metrics,
        callbacks=list(callbacks),
        optimizers=(optimizer, None),
    )


def saved(model, path):
    """The bytes of the model's state dict, by way of a file at `path`."""
    from safetensors.torch import save_file

    save_file(model.state_dict(), path)
    return path.read_bytes()


def stop_after(step):
    """A callback: Ctrl-C at that step."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

    return Stop()


def check_that_it_resumes(trainer, folder):
    """`trainer(*callbacks)`, stopped at its 12th step and started again, ends as if it had not been."""

    from stages.training import loop

    whole = trainer()
    history = loop.fit(whole, "")
    with pytest.raises(KeyboardInterrupt):
        loop.fit(trainer(stop_after(12)), "")
    resumed = trainer()
    assert loop.fit(resumed, "") == history
    assert saved(resumed.model, folder / "w") == saved(whole.model, folder / "w")


def word_tokenizer():
    """Words over the 60 ids of the tiny models, [CLS] and [SEP] around them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "my",
        "balance",
        "send",
        "money",
        "to",
        "rent",
        "a",
        "car",
        "in",
    ]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"w{i}" for i in range(len(words), 60))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(16)
    return tokenizer


def locale(variables):
    """An environment whose locale and encodings are those of `variables` alone."""
    names = ("LC_", "LANG", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)} | variables


@pytest.fixture
def bert():
    return tiny_bert()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Folders `teacher` (the tiny BERT) and `student` (two layers of it), and each as ONNX.

    `<name>-ort` is written, `<name>-traced` is traced.
    """
    from stages.core import model_folder
    from stages.techniques import export
    from stages.techniques.settings import Export
    from stages.techniques.students import from_teacher_layers

    root = tmp_path_factory.mktemp("exported")
    for name, model in (("teacher", tiny_bert()), ("student", from_teacher_layers(tiny_bert(), [0, 2]))):
        model.save_pretrained(root / name)
        for method, kind in (("written", "ort"), ("traced", "traced")):
            (root / f"{name}-{kind}").mkdir()
            export.apply(root / name, root / f"{name}-{kind}", Export(parent=name, method=method))
    for folder in list(root.iterdir()):
        word_tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text("{}")
        model_folder.write_recipe(folder, "nothing", "a test", {})
    return root


@pytest.fixture
def models(exported, tmp_path, monkeypatch):
    """The folder `models` of an empty working directory, with a copy of the `exported` ones."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(exported, tmp_path / "models")


@pytest.fixture
def intents():
    """Run `intents` in process: `intents("predict", "--model", …)` gives its standard output.

    `fails` is the status expected, if not 0; what is given is then standard error.
    """
    from click.testing import CliRunner

    from stages.commands import main

    def run(*arguments, fails=0, **options):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], **options)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == fails, result.output
        return result.stderr if fails else result.stdout

    return run
