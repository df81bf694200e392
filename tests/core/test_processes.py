"""Two processes under torchrun, against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from stages.core import processes
from stages.core.errors import UserError

TRAIN = """
import json, sys
import numpy as np, torch
from conftest import random_rows, saved, tiny_bert
from pathlib import Path
from stages.checkpoints import encoder
from stages.core import processes
from stages.training import distillation, loop
from stages.techniques.students import from_teacher_layers
from stages.techniques.settings import Training

hyper = Training(epochs=5, batch_size=40, learning_rate=1e-2, weight_decay=0.01, warmup=0.1, dropout=0.0)
rows = random_rows(40)
for row, logits in zip(rows, np.random.default_rng(1).normal(size=(40, 3)).astype("f4") * 3):
    row["teacher_logits"] = logits
student = from_teacher_layers(tiny_bert(), [0, 1])
encoder.set_dropout(student, 0.0)
loop._multiplies_bf16 = lambda: False  # or the order of the sums would show
trainer = distillation.DistillationTrainer(
    student,
    loop.arguments(
        hyper, "student", 0, distillation.DistillationTrainingArguments, alpha=0.3, temperature=2.0
    ),
    train_dataset=rows,
    eval_dataset=random_rows(13),
    data_collator=loop.PadToLongest(0),
    compute_metrics=loop.metrics,
)
history = loop.fit(trainer, "")
rank = sys.argv[1] + ("" if processes.is_main() else "-other")
saved(student, Path(rank + ".safetensors"))
measures = ("loss", "eval_loss", "eval_accuracy")
Path(rank + ".json").write_text(json.dumps([{key: epoch[key] for key in measures} for epoch in history]))
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*command, folder):
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (tests, tests.parent)))
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every batch is the whole data, so that one process and two see the same, whatever the order."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "train.py").write_text(TRAIN)
    run(sys.executable, "train.py", "one", folder=folder)
    run(*TORCHRUN, "train.py", "two", folder=folder)
    return folder


@pytest.mark.slow
def test_two_processes_learn_what_one_does(trained):
    """Losses to a millionth; weights to less than Adam makes of rounding where a gradient is near zero.

    That of a key's bias is zero (softmax does not see it): Adam makes whole steps of its rounding.
    """
    one, two = (load_file(trained / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in (name for name in one if not name.endswith("k_lin.bias")):
        np.testing.assert_allclose(two[name], one[name], atol=5e-3, err_msg=name)
    one, two = (json.loads((trained / f"{name}.json").read_text()) for name in ("one", "two"))
    assert [epoch["loss"] for epoch in two] == pytest.approx([epoch["loss"] for epoch in one], rel=1e-6)


@pytest.mark.slow
def test_metrics_are_those_of_one_process(trained):
    """Of 13 queries, which two cannot share evenly; as the first epoch, whose weights agree, has them."""
    (one, *_), (two, *_) = (json.loads((trained / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["eval_accuracy"] == one["eval_accuracy"]
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-4)


@pytest.mark.slow
def test_every_rank_ends_with_the_same(trained):
    main, other = (load_file(trained / f"{name}.safetensors") for name in ("two", "two-other"))
    for name in main:
        np.testing.assert_array_equal(main[name], other[name])
    assert (trained / "two.json").read_text() == (trained / "two-other.json").read_text()


@pytest.mark.slow
def test_no_checkpoint_is_left(trained):
    assert not list((trained / ".checkpoints").glob("*"))


def test_a_batch_is_shared(monkeypatch):
    assert processes.share(48) == 48
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert processes.share(48) == 16
    with pytest.raises(UserError, match="a batch of 40 cannot be shared by 3 processes"):
        processes.share(40)
