"""Answers to queries that were asked before."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Generic, TypeVar

Key = tuple[int, ...]
Answer = TypeVar("Answer")


class ResponseCache(Generic[Answer]):
    """The last `size` answers used, by the token ids that the model reads. Thread-safe."""

    def __init__(self, folder: Path, size: int):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # as stages.runtime has it
        self.size = size
        self.answers: OrderedDict[Key, Answer] = OrderedDict()
        self.lock = threading.Lock()

    def key(self, text: str) -> Key:
        """The same for texts that the model cannot tell apart, such as those that are cut alike."""
        return tuple(self.tokenizer.encode(text).ids)

    def get(self, key: Key) -> Answer | None:
        with self.lock:
            if key in self.answers:
                self.answers.move_to_end(key)
            return self.answers.get(key)

    def put(self, key: Key, answer: Answer) -> None:
        with self.lock:
            self.answers[key] = answer
            self.answers.move_to_end(key)
            if len(self.answers) > self.size:
                self.answers.popitem(last=False)
