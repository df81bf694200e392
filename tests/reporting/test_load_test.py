import json
import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from stages.core import settings
from stages.core.atomic import write_json
from stages.core.errors import UserError
from stages.measurement import identity
from stages.reporting import load_test
from stages.reporting.load_test import Measured

SERVE = settings.load().load_test.model_copy(
    update={
        "scenarios": {
            "slow": settings.Scenario(model="teacher"),
            "fast": settings.Scenario(model="small", cached=True),
        }
    }
)
NAN = math.nan
PLAN = pd.DataFrame(
    {
        "requests_per_second": [40.0, 2000.0],
        "gain": [NAN, 50.0],
        "gain_low": [NAN, 48.0],
        "gain_high": [NAN, 51.5],
        "load": [0.7, 0.7],
        "p50_ms": [60.0, 1.0],
        "p95_ms": [90.0, 2.0],
        "p99_ms": [99.0, 3.04],
        "hit_rate": [NAN, 0.404],
        "per_core": [NAN, 800.0],
        "per_core_and_day": [NAN, 800 * 86400 / 2],
        "cores": [NAN, 29.0],
    },
    index=["slow", "fast"],
)
LOADS = pd.DataFrame(
    [("slow", 0.5, 10, 60, 80, 99), ("fast", 0.5, 500, 1, 2, 3), ("fast", 0.8, 800, 1, 3, 9)],
    columns=["scenario", "load", "offered", "p50_ms", "p95_ms", "p99_ms"],
)
HTTP_PLAN = pd.DataFrame(
    {
        "model": ["small"],
        "requests_per_second": [1500.0],
        "load": [0.7],
        "p50_ms": [1.2],
        "p95_ms": [2.5],
        "p99_ms": [4.44],
        "p99_ms_in_process": [3.04],
        "per_core": [700.0],
        "per_core_and_day": [700 * 86400 / 2],
        "cores": [34.0],
        "machines": [3.0],
        "price_an_hour": [2.1],
    },
    index=["fast"],
)
HTTP_LOADS = pd.DataFrame(
    [("fast", 0.5, 500, 2, 3, 4), ("fast", 0.8, 800, 2, 4, 12)],
    columns=["scenario", "load", "offered", "p50_ms", "p95_ms", "p99_ms"],
)
WORKERS = {
    "requests": 10_000, "right": 10_000, "wrong": 0, "lost": 0, "killed": 1,
    "requests_per_second": 512.3, "p50_ms": 3.1, "p95_ms": 8.0, "p99_ms": 21.26,
}  # fmt: skip
SERVICE = {"processes": {**WORKERS, "right": 9_993, "lost": 7}, "workers": WORKERS}
MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "threads": 1,
    "workers": 2,
    "http_cores": 1,
    "int8_instructions": ["avx2"],
    "zipf_exponent": 0.617,
    "test_queries": 5500,
    "expected_hit_rate": 0.401,
    "left_out": [],
    "delays_ms": 0.31,
}


def measured(plan=PLAN, loads=LOADS, machine=MACHINE, http_plan=HTTP_PLAN, http_loads=HTTP_LOADS):
    return Measured(plan, loads, http_plan, http_loads, SERVICE, machine)


def test_markdown():
    lines = load_test.markdown(measured(), SERVE).splitlines()
    assert lines[1] == "|---|---|" + "---:|" * 7
    assert lines[2] == "| slow | teacher | 40 | – | 60.0 / 90.0 / 99.0 | – | none | – | – |"
    assert lines[3] == (
        "| fast | small | 2000 | ×50.0 (48.0–51.5) | 1.0 / 2.0 / 3.0 | 40% | 800 | 34.6 | 29 |"
    )
    assert "a CPU; instruction sets for int8: avx2" in lines[5]
    assert "that 1,000,000,000 requests a day need, at a peak of 2 times the mean" in lines[7]
    at = next(i for i, line in enumerate(lines) if line.startswith("| step, over HTTP"))
    assert lines[at + 2] == "| fast | 1500 | 700 | 1.2 / 2.5 / 4.4 | 3.0 | 34 | 3 | 2.10 |"
    text = "\n".join(lines)
    assert "machines of 16 such cores that cost 0.70 an hour" in text
    assert "run the model themselves, the service got 10,000 requests" in text
    assert "7 requests were lost and 0 were answered wrongly" in text
    assert "0 requests were lost and 0 were answered wrongly. It answered 512 a second" in text


def test_what_is_not_whole_or_of_another_model_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("load_test").mkdir()
    Path("calibrated/small").mkdir(parents=True)
    Path("calibrated/small/model.onnx").write_text("weights")
    write_json("load_test/measured.json", {"small": identity.of_model(Path("calibrated/small"))})
    PLAN.rename_axis("scenario").to_csv("load_test/plan.csv")
    LOADS.assign(requests=100).to_csv("load_test/loads.csv", index=False)
    HTTP_PLAN.rename_axis("scenario").to_csv("load_test/http_plan.csv")
    HTTP_LOADS.assign(requests=100).to_csv("load_test/http_loads.csv", index=False)
    write_json("load_test/service.json", SERVICE)
    write_json("load_test/machine.json", MACHINE)
    assert load_test.markdown(load_test.read(), SERVE) == load_test.markdown(measured(), SERVE)
    names = ("plan.csv", "loads.csv", "http_plan.csv", "http_loads.csv", "service.json", "machine.json")
    for name in names:
        text = (Path("load_test") / name).read_text()
        (Path("load_test") / name).write_text("")
        with pytest.raises(UserError, match=f"^load_test/{name} is empty"):
            load_test.read()
        (Path("load_test") / name).write_text(text)
    Path("calibrated/small/model.onnx").write_text("other weights")
    with pytest.raises(UserError, match="small is another model than calibrated/small"):
        load_test.read()


def test_what_cannot_be_had_is_a_dash():
    """Of few requests; whether the lowest load was late is known by its p50, or not at all."""
    plan = PLAN.assign(p95_ms=NAN, p99_ms=NAN, gain_low=NAN, gain_high=NAN, per_core=NAN, cores=NAN)
    loads = LOADS.assign(p99_ms=NAN)
    http_plan = HTTP_PLAN.assign(p99_ms=NAN, p99_ms_in_process=NAN, per_core=NAN, cores=NAN, machines=NAN)
    machine = MACHINE | {"delays_ms": None}
    text = load_test.markdown(measured(plan, loads, machine, http_plan), SERVE)
    lines = text.splitlines()
    assert lines[2] == "| slow | teacher | 40 | – | 60.0 / – / – | – | none | – | – |"
    assert lines[3] == "| fast | small | 2000 | ×50.0 | 1.0 / – / – | 40% | – | – | – |"
    assert "| fast | 1500 | – | 1.2 / 2.5 / – | – | – | – | – |" in lines
    assert "the p99 on this machine is – ms" in text and "nan" not in text


def test_a_hit_rate_that_is_not_the_one_asked_for_is_said():
    assert "test queries give" not in load_test.markdown(measured(), SERVE)
    few = MACHINE | {"test_queries": 12, "expected_hit_rate": 1.0, "left_out": ["fast"]}
    text = load_test.markdown(measured(PLAN[:1], LOADS[:1], few), SERVE)
    assert "**Left out: fast.** The 12 test queries give a cache of 256 a hit rate of 100%" in text
    near = MACHINE | {"test_queries": 534, "expected_hit_rate": 0.479}
    text = load_test.markdown(measured(machine=near), SERVE)
    assert "The 534 test queries give a cache of 256 a hit rate of 48%" in text and "Left out" not in text


def test_values_are_strict_json():
    values = load_test.values(measured(PLAN.assign(per_core=float("inf"))))
    assert values["slow"]["gain"] is None and values["service"] == SERVICE
    json.dumps(values, allow_nan=False)


def test_a_noisy_machine_is_said():
    text = load_test.markdown(measured(), SERVE)
    assert "the p99 on this machine is 0.3 ms." in text and "noisy" not in text
    text = load_test.markdown(measured(machine=MACHINE | {"delays_ms": 5.1}), SERVE)
    assert "**Too noisy to conclude.** The machine's own delays" in text
    loads = LOADS.assign(p99_ms=[99, 9, 4])
    assert "at a lower load: fast." in load_test.markdown(measured(loads=loads), SERVE)


@pytest.mark.parametrize(
    ("plan", "loads"),
    [(PLAN, LOADS), (PLAN[:1], LOADS), (PLAN, LOADS.assign(p99_ms=NAN))],
    ids=["two steps", "one, too slow", "too few requests"],
)
@pytest.mark.filterwarnings("error")
def test_picture(plan, loads, tmp_path):
    shown, http = (table[table["scenario"].isin(plan.index)] for table in (loads, HTTP_LOADS))
    load_test.picture(measured(plan, shown, http_loads=http), SERVE, tmp_path / "load_test.png")
    pixels = imread(tmp_path / "load_test.png")
    assert 500 < pixels.shape[1] <= 900 and pixels[..., :3].std() > 0.05
