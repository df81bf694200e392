"""Verdicts on peers, by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from stages.peers.comparison import Compared
from stages.peers.workshop import Peer
from stages.reporting import peers as reporting

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 1, "int8_instructions": ["avx2"]}
# Name: kind, right of 1,000, MB, mean ms.
MODELS = {
    "teacher": ("ours", 920, 80.0, 8.0),
    "small": ("ours", 919, 10.0, 2.0),
    "tiny": ("ours", 800, 4.0, 0.5),
    "olive": ("peer", 918, 20.0, 2.2),
    "tfidf": ("peer", 790, 60.0, 0.4),
    "setfit": ("peer", 990, 90.0, 9.0),
}


def compared(noise=0.05, models=MODELS):
    """Each model is right on the first so many queries; intervals of ±`noise`."""
    rows = {}
    for name, (kind, right, size, ms) in models.items():
        rows[name] = {
            "kind": kind,
            **dict.fromkeys(
                ("accuracy", "accuracy_calibrated", "accuracy_in_scope_calibrated"), right / 1000
            ),
            "oos_recall_calibrated": None,
            "size_mb": size,
            "latency_mean_ms": ms,
            "latency_p95_ms": math.nan,
            "speedup_over_bert_base": 50 / ms,
            "speedup_over_bert_base_low": 48 / ms,
            "speedup_over_bert_base_high": 52 / ms,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    ours = table.index[table["kind"] == "ours"]
    speedups = pd.DataFrame(index=table.index)
    for name in ours:
        ratio = table["latency_mean_ms"][name] / table["latency_mean_ms"]
        speedups[name], speedups[f"{name}_low"] = ratio, (1 - noise) * ratio
        speedups[f"{name}_high"] = (1 + noise) * ratio
    right = {name: np.arange(1000) < of[1] for name, of in models.items()}
    return Compared(table, right, speedups, MACHINE)


def test_a_peer_is_judged_against_ours_that_are_as_accurate():
    olive, tfidf, setfit = reporting.judge(compared())
    assert (olive.fastest, olive.smallest, olive.wins) == ("small", "small", [])
    assert (olive.speed, olive.size) == pytest.approx((2 / 2.2, 2.0))
    assert (olive.low, olive.high) == pytest.approx((0.95 * 2 / 2.2, 1.05 * 2 / 2.2))
    assert (tfidf.fastest, tfidf.smallest, tfidf.wins) == ("tiny", "tiny", ["speed"])
    assert (setfit.fastest, setfit.smallest, setfit.wins) == (None, None, ["accuracy"])


def test_noise_is_no_win():
    """0.5 / 0.4 = 1.25 times as fast, whose interval begins below 1, or is not known."""
    for noise in (0.25, math.nan):
        assert reporting.judge(compared(noise))[1].wins == []


def test_a_smaller_peer_wins_in_size():
    olive, *_ = reporting.judge(compared(models=MODELS | {"olive": ("peer", 918, 9.0, 2.2)}))
    assert (olive.wins, olive.size) == (["size"], pytest.approx(0.9))


@pytest.fixture
def peers():
    peers = [Peer(name) for name in ("olive", "tfidf", "setfit")]
    for peer in peers:
        peer.__dict__["versions"] = {peer.name: "1.0"}
    return peers


def test_markdown(peers):
    text = reporting.markdown(compared(), peers, [Peer("openvino")])
    lines = text.splitlines()
    assert "**tfidf beats our models in speed.**" in lines
    assert "**setfit beats our models in accuracy.**" in lines
    assert "| **olive** | 91.8% | 91.8% | 91.8% | – | 20.0 | 2.20 (–) | ×22.7 (21.8–23.6) |" in lines
    assert "| small | 91.9% | 91.9% | 91.9% | – | 10.0 | 2.00 (–) | ×25.0 (24.0–26.0) |" in lines
    assert "| olive | small | ×0.91 (0.86–0.95) | small | ×2.00 |" in lines
    assert "| setfit | none | – | none | – |" in lines
    order = [line.split("|")[1].strip(" *") for line in lines if "×" in line and line.count("|") == 9]
    assert order == ["tfidf", "tiny", "small", "olive", "teacher", "setfit"]
    assert f"- **olive** (olive 1.0): {peers[0].module.RECIPE}" in lines
    assert lines[-1] == "Not installed here: openvino."


def test_that_no_peer_wins_is_said(peers):
    ours = {name: row for name, row in MODELS.items() if name not in ("tfidf", "setfit")}
    text = reporting.markdown(compared(models=ours), peers[:1], [])
    assert "\nNo peer here beats our models:" in text and "beats our models in" not in text
    assert "Not installed" not in text


def test_values(peers):
    """JSON without NaN."""
    values = reporting.values(compared(), peers, [Peer("openvino")])
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["not_installed"] == ["openvino"]
    assert values["models"]["olive"]["versions"] == {"olive": "1.0"}
    assert values["models"]["tfidf"]["wins"] == ["speed"]
    assert values["models"]["setfit"]["against"]["fastest"] is None
    assert values["models"]["teacher"]["latency_p95_ms"] is None
    assert "wins" not in values["models"]["teacher"]


def test_picture_is_the_same_for_the_same_numbers(tmp_path):
    for name in ("a", "b"):
        reporting.picture(compared().table, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
