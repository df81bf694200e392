"""The embedded corpus: templates with slots, split by template, then filled."""

import itertools
import random
import re
from pathlib import Path

import pandas as pd
import yaml

from stages.core.errors import UserError
from stages.core.settings import SampleData
from stages.data import formats
from stages.data.splits import split_counts

SLOT = re.compile(r"\{(\w+)\}")


class Loader(yaml.SafeLoader):
    """Of an intent that stands twice in a file, YAML alone would keep the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if len({*keys}) < len(keys):
            raise ValueError(f"{max(keys, key=keys.count)!r} stands twice")
        return super().construct_mapping(node, deep)


def load(params: SampleData, seed: int) -> dict[str, pd.DataFrame]:
    """Expand the corpus in `params.path` to train, validation and test.

    Every intent's templates are dealt out to the splits first, so that no query of one split
    shares its template with a query of another; then each template is filled in up to
    `queries_per_template` ways. `seed` decides both, intent by intent. Without a name for
    out-of-scope, its sentences are left out.
    """
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for intent, sentences in _read(Path(params.path), params.out_of_scope):
        rng = random.Random(f"{seed}/{intent}")
        rng.shuffle(sentences)
        test, validation = split_counts(len(sentences), params.test_fraction, params.validation_fraction)
        for i, fillings in enumerate(sentences):
            split = "test" if i < test else "validation" if i < test + validation else "train"
            chosen = rng.sample(fillings, min(params.queries_per_template, len(fillings)))
            rows[split] += [(text, intent) for text in chosen]
    return {
        split: formats.table((f"{split}, row {i}", *pair) for i, pair in enumerate(pairs, 1))
        for split, pairs in rows.items()
    }


def _read(folder: Path, out_of_scope: str | None) -> list[tuple[str, list[list[str]]]]:
    """Each intent with its templates, a template as the list of all its fillings."""
    intents = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            content = yaml.load(path.read_text("utf-8"), Loader)
            if path.stem != "out_of_scope":
                for intent, templates in content["intents"].items():
                    intents.append((intent, [fill(template, content["slots"]) for template in templates]))
            elif out_of_scope is not None:
                intents.append((out_of_scope, [[sentence] for sentence in content]))
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path} is not in the corpus's layout ({type(error).__name__}: {reason}): it needs "
                "templates under intents, and a list under slots for each {slot}"
            ) from None
    return intents


def fill(template: str, slots: dict[str, list[str]]) -> list[str]:
    """Every query that a template stands for, e.g. "book {day}" for each value of `day`."""
    names = list(dict.fromkeys(SLOT.findall(template)))
    return [
        template.format(**dict(zip(names, values, strict=True)))
        for values in itertools.product(*(slots[name] for name in names))
    ]
