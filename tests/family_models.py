"""Tiny classifiers of each encoder family, with tokenizers of its kind, saved as the hub has them.

    save("roberta", folder)                     model.safetensors, tokenizer.json
    save("bert", folder, weights="bin")         pytorch_model.bin, as old repositories have it
    save("bert", folder, weights="sharded")     two shards and their index

The tokenizers are trained on the embedded corpus. Weights are random, by seed.
"""

import functools
import json
from pathlib import Path

LABELS = ("balance", "oos", "transfer")
TOKENS = 40  # that each model reads at most
SAMPLE = Path(__file__).parents[1] / "stages/data/sample"

BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": TOKENS,
    "initializer_range": 0.5,  # logits far enough apart to tell models from each other
}
AFTER_PADDING = {"max_position_embeddings": TOKENS + 2, "pad_token_id": 1}  # positions start at 2
DEBERTA = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
# Kind of tokenizer, special tokens in the order of their ids, the class that the hub names, configuration.
FAMILIES: dict[str, tuple[str, dict, str, dict]] = {
    "bert": ("WordPiece", BERT, "BertTokenizer", {}),
    "distilbert": ("WordPiece", BERT, "DistilBertTokenizer", {}),
    "roberta": ("BPE", ROBERTA, "RobertaTokenizer", AFTER_PADDING | {"type_vocab_size": 1}),
    "xlm-roberta": ("Unigram", ROBERTA, "XLMRobertaTokenizer", AFTER_PADDING | {"type_vocab_size": 1}),
    "mpnet": ("WordPiece", ROBERTA | {"unk": "[UNK]"}, "MPNetTokenizer", AFTER_PADDING),
    "electra": ("WordPiece", BERT, "ElectraTokenizer", {"embedding_size": 8}),
    "albert": ("Unigram", BERT, "AlbertTokenizer", {"embedding_size": 8, "hidden_act": "gelu_new"}),
    "deberta-v2": (
        "Unigram",
        BERT,
        "DebertaV2Tokenizer",
        DEBERTA | {"conv_kernel_size": 3, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    ),
    "deberta-v3": (
        "Unigram",
        BERT,
        "DebertaV2Tokenizer",
        DEBERTA | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False},
    ),
    "modernbert": (
        "BPE",
        BERT,
        "PreTrainedTokenizerFast",
        {"local_attention": 8, "classifier_pooling": "mean"},
    ),
}
DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


@functools.cache
def corpus() -> list[str]:
    """The embedded corpus's templates."""
    import yaml

    texts = []
    for path in sorted(SAMPLE.glob("*.yaml")):
        content = yaml.safe_load(path.read_text("utf-8"))
        lists = content["intents"].values() if isinstance(content, dict) else [content]
        texts += [text.replace("{", "").replace("}", "") for sentences in lists for text in sentences]
    return texts


def tokenizer(family: str, vocab_size: int = 400):
    """The Rust tokenizer of the family's kind, without truncation or padding."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_trained(family, vocab_size))


@functools.cache
def _trained(family: str, vocab_size: int) -> str:
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    kind, named, _, _ = FAMILIES[family]
    special = [*named.values()]
    options = {"vocab_size": vocab_size, "special_tokens": special, "show_progress": False}
    if kind == "WordPiece":
        made = Tokenizer(models.WordPiece(unk_token=named["unk"]))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**options)
    elif kind == "BPE":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    else:
        made = Tokenizer(models.Unigram())
        spaces = normalizers.Replace(Regex(" {2,}"), " ")
        lower = [normalizers.StripAccents(), normalizers.Lowercase()] if family == "albert" else []
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), *lower, spaces])
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=named["unk"], **options)
    made.train_from_iterator(corpus(), trainer)
    cls, sep = ((named[kind], made.token_to_id(named[kind])) for kind in ("cls", "sep"))
    if family in ("roberta", "mpnet"):
        made.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=False)
    else:
        made.post_processor = processors.TemplateProcessing(
            single=f"{cls[0]} $A {sep[0]}", special_tokens=[cls, sep]
        )
    return made.to_str()


def model(family: str, labels=LABELS, vocab_size: int = 400, **options):
    """An untrained classifier in evaluation mode; every weight, biases and norms too, is random by seed."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    named = FAMILIES[family][1]
    tokens = tokenizer(family, vocab_size)
    config = {
        **SHAPE,
        "vocab_size": tokens.get_vocab_size(),
        **{f"{kind}_token_id": tokens.token_to_id(named[kind]) for kind in ("pad", "cls", "sep")},
        "bos_token_id": tokens.token_to_id(named["cls"]),
        "eos_token_id": tokens.token_to_id(named["sep"]),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
        "problem_type": "single_label_classification",
        **FAMILIES[family][3],
        **options,
    }
    if family == "distilbert":
        config = {DISTILBERT.get(key, key): value for key, value in config.items()}
    made = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(family.replace("deberta-v3", "deberta-v2"), **config)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def save(family: str, folder, weights: str = "safetensors", made=None, tokens=None, **options) -> Path:
    """Write `made` and `tokens`, or those of `model` and `tokenizer`, as a repository of the hub has them.

    `weights` is "safetensors", "bin" (a pickle of the state dict) or "sharded".
    """
    import torch
    from transformers import logging

    logging.disable_progress_bar()
    folder = Path(folder)
    _, named, kind, _ = FAMILIES[family]
    made = model(family, **options) if made is None else made
    tokens = tokenizer(family, options.get("vocab_size", 400)) if tokens is None else tokens
    if weights == "sharded":
        made.save_pretrained(folder, max_shard_size=f"{made.num_parameters() * 2 // 1000 + 1}KB")
    else:
        made.save_pretrained(folder)
    if weights == "bin":
        (folder / "model.safetensors").unlink()
        torch.save(made.state_dict(), folder / "pytorch_model.bin")
    tokens.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": token for name, token in named.items()}
    settings = {"tokenizer_class": kind, "model_max_length": TOKENS, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    return folder
