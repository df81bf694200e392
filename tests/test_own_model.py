"""From a classifier of one's own and a file of queries to a served int8 model, by the page's commands."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import family_models
import pandas as pd
import pytest
import yaml
from clone import ENV, ROOT

from stages import runtime

pytestmark = pytest.mark.slow

PAGE = (ROOT / "conf" / "teacher" / "README.md").read_text()
COMMANDS = re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].splitlines()
IDENTITY = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
TINY = [
    *(f"benchmark.{it}" for it in ("warmup=1", "rounds=2", "queries=4", "reference_every=2", "starts=0")),
    *(f"benchmark.{it}" for it in ("batch_sizes=[4]", "batches_every=1", "reference.hidden_size=32")),
    *(f"benchmark.reference.{it}" for it in ("num_hidden_layers=1", "num_attention_heads=2")),
    "benchmark.reference.intermediate_size=64",
    *(f"load_test.{it}" for it in ("seconds=0.2", "loads=[0.5]", "requests=200", "clients=2")),
    "variants.vocabulary.vocabulary.vocab_size=0",
]


def banking() -> tuple[list[str], list[str]]:
    """Queries and intents of the embedded corpus."""
    content = yaml.safe_load((ROOT / "stages/data/sample/banking.yaml").read_text("utf-8"))
    pairs = [(re.sub("[{}]", "", q), name) for name, queries in content["intents"].items() for q in queries]
    return [query for query, _ in pairs], [name for _, name in pairs]


def three_languages(*languages: str) -> tuple[list[str], list[str]]:
    content = yaml.safe_load((ROOT / "tests/corpora/three_languages.yaml").read_text("utf-8"))
    pairs = [(q, name) for name, by in content.items() for lang in languages for q in by[lang]]
    return [query for query, _ in pairs], [name for _, name in pairs]


def unigram(texts: list[str]):
    """An XLM-R's tokenizer, trained on the texts."""
    from tokenizers import trainers

    made = family_models.tokenizer("xlm-roberta")
    special = [*family_models.ROBERTA.values()]
    made.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=1500, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    return made


def fine_tuned(family: str, folder: Path, texts: list[str], intents: list[str], tokens) -> None:
    """A tiny classifier of the family, with the intents as labels, that knows the texts by heart."""
    import torch

    labels = sorted(set(intents))
    size = tokens.get_vocab_size()
    model = family_models.model(
        family, labels, vocab_size=size, hidden_size=32, initializer_range=0.05, num_hidden_layers=2
    )
    tokens.enable_truncation(family_models.TOKENS)
    tokens.enable_padding(pad_id=model.config.pad_token_id, pad_token="<pad>")
    encodings = tokens.encode_batch(texts)
    ids = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    target = torch.tensor([labels.index(intent) for intent in intents])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=target).loss.backward()
        optimizer.step()
    tokens.no_padding()
    tokens.no_truncation()
    family_models.save(family, folder, made=model.eval(), tokens=tokens)


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENV | IDENTITY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answer(port: int, text: str) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", json.dumps({"text": text}).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_the_five_commands(family, tmp_path, monkeypatch, intents):
    monkeypatch.chdir(tmp_path)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    if family == "roberta":
        texts, names = banking()
        everything, tokens = (texts, names), family_models.tokenizer("roberta", 700)
    else:  # one language of the three that the model reads
        texts, names = three_languages("hi")
        everything = three_languages("de", "hi", "zh")
        tokens = unigram(everything[0])
    fine_tuned(family, tmp_path / "my-model", *everything, tokens)
    pd.DataFrame({"text": texts, "intent": names}).to_csv("queries.csv", index=False)

    first, second, third, fourth, fifth = (line.split() for line in COMMANDS)
    intents(*first[1:])
    assert " ".join(second) == "cd my-project && pip install -e ."
    project = tmp_path / "my-project"
    print(run(*third, *(part for override in TINY for part in ("-S", override)), cwd=project))
    shown = run(sys.executable, "-m", "stages.commands", *fourth[1:], cwd=project)
    assert all(name in shown for name in ("teacher", "teacher-ort-int8", "vocabulary-ort-int8"))

    table = pd.read_csv(project / "metrics/files/tables/results.csv", index_col="model")
    accuracy = table["accuracy"]
    assert accuracy["teacher"] > 0.9
    assert accuracy["teacher"] - accuracy["teacher-ort-int8"] <= 0.02
    # A cut costs this model what it knew by heart; int8 costs no more.
    cut, int8 = (runtime.load(project / "models" / name) for name in ("vocabulary", "vocabulary-ort-int8"))
    right = [
        sum(model.predict([text])[0].label == name for text, name in zip(texts, names, strict=True))
        for model in (cut, int8)
    ]
    assert right[0] - right[1] <= 0.02 * len(texts)
    sizes = table["size_mb"]
    assert sizes["vocabulary-ort-int8"] < sizes["teacher-ort-int8"] < sizes["teacher"]
    recipe = json.loads((project / "models/vocabulary/recipe.json").read_text())
    scripts = recipe["embedding_mb_by_script"]
    if family == "xlm-roberta":
        before, after = scripts["other"]  # Latin and Chinese
        assert after < 0.6 * before and scripts["devanagari"][1] > 0.4 * scripts["devanagari"][0]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = [sys.executable, "-m", "stages.commands", *fifth[1:-1], str(port)]
    process = subprocess.Popen(served, cwd=project, env=ENV, stdout=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        right = [answer(port, text)["label"] == name for text, name in zip(texts, names, strict=True)]
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert sum(right) >= 0.9 * len(right)
