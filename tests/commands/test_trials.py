import optuna
import pandas as pd
import pytest
from matplotlib.image import imread

from stages.commands import trials
from stages.core import settings

SEARCH = settings.load().search.model_copy(update={"bounds": settings.Bounds(size_mb=20.0, speedup=5.0)})
SPACE = {
    "distill.epochs": optuna.distributions.IntDistribution(5, 10),
    "distill.alpha": optuna.distributions.FloatDistribution(0, 1),
    "distill.temperature": optuna.distributions.FloatDistribution(2, 20),
}


@pytest.fixture
def study():
    """Five trials: the most accurate is too big, the second is pruned, one failed."""
    study = optuna.create_study(direction="maximize", study_name="distillation")
    for number, (accuracy, size, speed) in enumerate(
        [(0.93, 25.0, 4.0), (0.80, None, None), (0.91, 18.0, 8.0), (0.90, 15.0, 12.0), (0.89, 16.0, 7.0)]
    ):
        complete = size is not None
        attributes = {"experiment": f"distillation-{number}"}
        attributes |= {"size_mb": size, "speedup": speed} if complete else {}
        study.add_trial(
            optuna.create_trial(
                params={
                    "distill.epochs": 5 + number,
                    "distill.alpha": 0.1 * number,
                    "distill.temperature": 4.0,
                },
                distributions=SPACE,
                value=accuracy if complete else None,
                intermediate_values={1: accuracy / 2, 2: accuracy},
                user_attrs=attributes,
                system_attrs={"constraints:size_mb": size - 20.0} if complete else {},
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
            )
        )
    failed = study.ask()
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    return study


def test_collect(study):
    table = trials.collect(study, SEARCH)
    assert table["state"].tolist() == ["complete", "pruned", "complete", "complete", "complete"]
    assert table["validation_accuracy"].tolist() == [0.93, 0.80, 0.91, 0.90, 0.89]
    assert table["within"].tolist() == [False, False, True, True, True]
    assert table.loc[table["best"], "experiment"].tolist() == ["distillation-2"]
    assert table["distill.epochs"].tolist() == [5, 6, 7, 8, 9]
    assert pd.isna(table["experiment"][1])


def test_a_setting_that_was_not_searched_at_first(study):
    later = SEARCH.model_copy(
        update={"space": {**SEARCH.space, "prune.epochs": settings.Range(low=1, high=9)}}
    )
    lines = trials.markdown(trials.collect(study, later), later).splitlines()
    assert lines[3] == "| **2** | complete | 7 | 0.2 | 4 | – | 91.00% | 18.0 | 8.0 |"


def test_markdown(study):
    lines = trials.markdown(trials.collect(study, SEARCH), SEARCH).splitlines()
    assert lines[2] == "| 0 | out of bounds | 5 | 0 | 4 | 93.00% | 25.0 | 4.0 |"
    assert lines[3] == "| **2** | complete | 7 | 0.2 | 4 | 91.00% | 18.0 | 8.0 |"
    table = trials.collect(study, SEARCH)
    table.loc[0, "distill.alpha"] = None  # as of a trial from before the search had that setting
    assert trials.markdown(table, SEARCH).splitlines()[2].startswith("| 0 | out of bounds | 5 | – | 4 |")
    assert lines[6] == "| 1 | pruned | 6 | 0.1 | 4 | 80.00% | – | – |"
    assert "Bounds: size_mb 20, speedup 5." in lines[-1]


def test_front():
    done = pd.DataFrame(
        {"validation_accuracy": [0.9, 0.8, 0.8, 0.7], "size_mb": [9, 5, 6, 4], "speedup": [1, 2, 3, 2]}
    )
    assert trials.on_front(done, "size_mb").tolist() == [True, True, False, True]
    assert trials.on_front(done, "speedup").tolist() == [True, False, True, False]


def test_no_front_where_all_cost_the_same(study):
    table = trials.collect(study, SEARCH)
    assert trials.varying(table) == ["size_mb", "speedup"]
    assert trials.varying(table.assign(size_mb=67.2491, speedup=None)) == []


def test_pictures(study, tmp_path):
    written = trials.outputs(study, SEARCH)
    assert set(written) == {
        "trials.csv", "trials.md", "history.png", "importance.png", "parallel.png", "pareto.png",
    }  # fmt: skip
    for name, write in written.items():
        write(tmp_path / name)
        if name.endswith(".png"):
            pixels = imread(tmp_path / name)
            assert pixels.shape[1] > 400 and pixels[..., :3].std() > 0.05
