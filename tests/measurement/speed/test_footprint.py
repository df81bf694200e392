import subprocess

import numpy as np
import pytest

from stages.measurement.speed import footprint


def test_a_process_that_serves_one_model(models):
    """Its memory is its own, not that of the process that starts it."""
    ballast = np.ones(2**25)  # 256 MB
    found = footprint.start(models / "student-ort", "my balance")
    assert ballast[-1] == 1
    assert list(found) == ["start_s", "peak_mb"]
    assert 0 < found["start_s"] < 300
    assert 20 < found["peak_mb"] < 200


def test_peak_memory_is_kept():
    before = footprint.peak_mb()
    block = np.ones(2**25)  # 256 MB
    after = footprint.peak_mb()
    assert after >= max(before, block.nbytes / 2**20)
    del block
    assert footprint.peak_mb() == pytest.approx(after, abs=16)


def test_a_process_that_fails(models, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        footprint.start(models / "nowhere", "my balance")
    assert "is no model folder" in capfd.readouterr().err
