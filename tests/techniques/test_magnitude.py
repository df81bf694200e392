import pytest
import torch
from conftest import check_that_it_resumes, small_trainer
from transformers import TrainerCallback, TrainerState

from stages.checkpoints import encoder
from stages.techniques.magnitude import Magnitude
from stages.techniques.settings import MagnitudePruning
from stages.techniques.students import from_teacher_layers
from stages.training import loop
from stages.training.schedules import scheduled

SCHEDULES = ["magnitude-one-shot", "magnitude-iterative", "magnitude-gradual"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_go_from_nothing_to_all(schedule):
    values = [scheduled(schedule, t / 200, 0.9, 0.2, 0.8, rounds=4) for t in range(201)]
    assert values == sorted(values)
    assert set(values[:40]) == {0}
    assert set(values[160:]) == {0.9}


def test_one_shot_at_begin():
    assert scheduled("magnitude-one-shot", 0.2, 0.9, 0.2, 0.8, rounds=4) == 0.9
    assert scheduled("magnitude-one-shot", 0, 0.9, 0, 0.8, rounds=4) == 0.9


@pytest.mark.parametrize(
    ("progress", "left"),
    [(0.21, 1 / 2), (0.39, 1 / 2), (0.41, 1 / 4), (0.61, 1 / 8), (0.79, 1 / 8), (0.8, 1 / 16)],
)
def test_iterative_halves_what_is_left(progress, left):
    """Four rounds to a sixteenth: at 0.2, 0.4, 0.6 and 0.8."""
    assert scheduled("magnitude-iterative", progress, 15 / 16, 0.2, 0.8, rounds=4) == pytest.approx(1 - left)


def test_iterative_in_one_round_is_one_shot():
    assert scheduled("magnitude-iterative", 0.2, 0.9, 0.2, 0.8, rounds=1) == pytest.approx(0.9)


def test_gradual_is_cubic():
    assert scheduled("magnitude-gradual", 0.5, 0.8, 0.2, 0.8, rounds=4) == pytest.approx(0.8 * 7 / 8)


def trainer(bert, schedule, *callbacks, every, epochs):
    """5 steps an epoch; all but an eighth pruned between a quarter and three quarters of the run."""
    torch.manual_seed(7)
    student = from_teacher_layers(bert, [0, 1])
    settings = MagnitudePruning.model_construct(
        method=schedule, sparsity=0.875, begin=0.25, end=0.75, rounds=3
    )
    pruning = Magnitude(student, settings, every)
    return small_trainer(student, pruning, *callbacks, epochs=epochs)


class Watch(TrainerCallback):
    """The encoder's zeros after every step."""

    def __init__(self):
        self.zeros = []

    def on_step_end(self, args, state, control, **kwargs):
        self.zeros.append([m.weight == 0 for m in encoder.linears(kwargs["model"]).values()])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pruning_while_training(bert, schedule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watch = Watch()
    run = trainer(bert, schedule, watch, every=2, epochs=8)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    history = loop.fit(run, "")

    shares = [{zeros.float().mean().item() for zeros in step} for step in watch.zeros]
    assert len(shares) == 40
    assert shares[:10] == [{0.0}] * 10
    assert shares[30:] == [{0.875}] * 10  # each matrix
    if schedule == "magnitude-one-shot":
        assert shares[10:30] == [{0.875}] * 20
    elif schedule == "magnitude-iterative":
        assert shares[10:30] == [{0.5}] * 10 + [{0.75}] * 10
    else:
        due = [round(256 * 0.875 * (1 - (1 - k / 10) ** 3)) for k in range(10)]
        assert [step[0].sum() for step in watch.zeros[10:30]] == [count for count in due for _ in range(2)]
    for earlier, later in zip(watch.zeros, watch.zeros[1:], strict=False):
        assert all((zeros <= more).all() for zeros, more in zip(earlier, later, strict=True))

    linears = encoder.linears(run.model).values()
    assert all(torch.equal(m.weight == 0, zeros) for m, zeros in zip(linears, watch.zeros[-1], strict=True))
    assert not any(m.weight[m.weight == 0].signbit().any() for m in linears)
    assert all(not torch.equal(p, before[name]) for name, p in run.model.named_parameters() if "bias" in name)
    assert not torch.equal(run.model.classifier.weight, before["classifier.weight"])
    assert history[-1]["sparsity"] == 0.875


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_interrupted_run_resumes_to_the_same_bytes(bert, schedule, tmp_path, monkeypatch):
    """From a checkpoint between two steps at which masks are drawn."""
    monkeypatch.chdir(tmp_path)

    check_that_it_resumes(lambda *callbacks: trainer(bert, schedule, *callbacks, every=4, epochs=4), tmp_path)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_training_of_few_steps_reaches_the_sparsity(bert, schedule, steps):
    model = from_teacher_layers(bert, [0])
    settings = MagnitudePruning(
        parent="x", method=schedule, sparsity=0.5, rounds=4, begin=0.1, end=0.7, freeze_embeddings=True,
        alpha=1.0, temperature=1.0, seed=0, epochs=1, batch_size=8, learning_rate=1e-3, weight_decay=0.0,
        warmup=0.0, dropout=0.0,
    )  # fmt: skip
    pruning = Magnitude(model, settings)
    for step in range(steps):
        state = TrainerState(global_step=step, max_steps=steps)
        pruning.on_step_begin(None, state, None)
        pruning.on_step_end(None, state, None)
    for module in encoder.linears(model).values():
        assert (module.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
