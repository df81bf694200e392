"""Answers to queries that were asked before."""

import threading
from collections import OrderedDict
from pathlib import Path

from stages.runtime import Prediction


class ResponseCache:
    """The last `size` answers used, by the text as the model's tokenizer normalizes it. Thread-safe."""

    def __init__(self, folder: Path, size: int):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.normalizer = tokenizer.normalizer
        self.reads_spaces = tokenizer.encode(" a  b").ids != tokenizer.encode("a b").ids  # as RoBERTa's does
        self.size = size
        self.answers: OrderedDict[str, Prediction] = OrderedDict()
        self.lock = threading.Lock()

    def key(self, text: str) -> str:
        """The same for texts that the model cannot tell apart, such as those that differ in spaces."""
        if self.normalizer is not None:
            text = self.normalizer.normalize_str(text)
        return text if self.reads_spaces else " ".join(text.split())

    def get(self, key: str) -> Prediction | None:
        with self.lock:
            if key in self.answers:
                self.answers.move_to_end(key)
            return self.answers.get(key)

    def put(self, key: str, answer: Prediction) -> None:
        with self.lock:
            self.answers[key] = answer
            self.answers.move_to_end(key)
            if len(self.answers) > self.size:
                self.answers.popitem(last=False)
