"""The embedded corpus: templates with slots, split by template, then filled."""

import itertools
import random
import re
from pathlib import Path

import pandas as pd
import yaml

from stages.intents.splits import split_counts
from stages.params import SampleData

SLOT = re.compile(r"\{(\w+)\}")


def load(params: SampleData, seed: int) -> dict[str, pd.DataFrame]:
    """Expand the corpus in `params.path` to train, validation and test.

    Every intent's templates are dealt out to the splits first, so that no query of one split
    shares its template with a query of another; then each template is filled in up to
    `queries_per_template` ways. `seed` decides both, intent by intent.
    """
    rows = {"train": [], "validation": [], "test": []}
    for intent, sentences in _read(Path(params.path), params.out_of_scope):
        rng = random.Random(f"{seed}/{intent}")
        rng.shuffle(sentences)
        test, validation = split_counts(len(sentences), params.test_fraction, params.validation_fraction)
        for i, fillings in enumerate(sentences):
            split = "test" if i < test else "validation" if i < test + validation else "train"
            chosen = rng.sample(fillings, min(params.queries_per_template, len(fillings)))
            rows[split] += [(text, intent) for text in chosen]
    return {split: pd.DataFrame(pairs, columns=["text", "intent"]) for split, pairs in rows.items()}


def _read(folder: Path, out_of_scope: str):
    """Yield each intent with its templates, a template as the list of all its fillings."""
    for path in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        if path.stem == "out_of_scope":
            yield out_of_scope, [[sentence] for sentence in content]
        else:
            for intent, templates in content["intents"].items():
                yield intent, [fill(template, content["slots"]) for template in templates]


def fill(template: str, slots: dict[str, list[str]]) -> list[str]:
    """Every query that a template stands for, e.g. "book {day}" for each value of `day`."""
    names = SLOT.findall(template)
    return [
        SLOT.sub(lambda match, values=dict(zip(names, values, strict=True)): values[match[1]], template)
        for values in itertools.product(*(slots[name] for name in names))
    ]
