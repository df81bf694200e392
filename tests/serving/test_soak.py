import json
from collections import Counter

import pytest

from stages.serving import soak
from stages.serving.soak import Asked

LABELS = {f"query {i}": f"intent {i % 3}" for i in range(20)}


def test_the_mix():
    requests = soak.mix(list(LABELS), LABELS, 2000, seed=0)
    assert requests == soak.mix(list(LABELS), LABELS, 2000, seed=0)
    kinds = Counter("bad" if r.status != 200 else "several" if len(r.labels) > 1 else "one" for r in requests)
    assert {kind: count / 2000 for kind, count in kinds.items()} == pytest.approx(
        {"one": 0.85, "several": 0.1, "bad": 0.05}, abs=0.02
    )
    assert set(soak.BAD) <= set(requests)
    for request in requests:
        if request.status == 200:
            content = json.loads(request.body)
            texts = content.get("texts", [content.get("text")])
            assert request.labels == tuple(LABELS[text] for text in texts)


GOOD = Asked(b"", 200, ("balance",))
BAD = Asked(b"", 400)


@pytest.mark.parametrize(
    ("asked", "status", "content", "verdict"),
    [
        (GOOD, 200, {"label": "balance", "score": 0.9}, "right"),
        (GOOD, 200, {"predictions": [{"label": "balance"}]}, "right"),
        (GOOD, 200, {"label": "transfer"}, "wrong"),
        (GOOD, 400, {"error": "no"}, "wrong"),
        (GOOD, 503, {"error": "later"}, "lost"),
        (GOOD, 500, {}, "lost"),
        (GOOD, 200, ["balance"], "wrong"),
        (GOOD, 200, {"predictions": [5]}, "wrong"),
        (BAD, 400, {"error": "no"}, "right"),
        (BAD, 400, {}, "wrong"),
        (BAD, 413, {"error": "no"}, "wrong"),
        (BAD, 200, {"label": "balance"}, "wrong"),
    ],
)
def test_verdicts(asked, status, content, verdict):
    assert soak.judge(asked, status, json.dumps(content).encode()) == verdict


def test_an_answer_that_is_no_json():
    assert soak.judge(BAD, 400, b"Invalid HTTP request received.") == "wrong"


def test_answers_that_are_wrong_or_lost_are_counted(models):
    asked = Asked(b'{"text": "my balance"}', 200, ("no such label",))
    with soak.service(models / "student-ort", "--processes", "1") as port:
        found = soak.run(port, [asked] * 20, clients=2, kill=False)
    assert (found["right"], found["wrong"], found["lost"]) == (0, 20, 0)
    gone = soak.run(port, [asked] * 20, clients=2, kill=False)
    assert (gone["right"], gone["wrong"], gone["lost"]) == (0, 0, 20)


def test_a_service_that_does_not_start(models):
    (models / "student-ort" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="does not start"), soak.service(models / "student-ort"):
        pass
