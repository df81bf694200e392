from stages.measurement.speed.measured_model import MeasuredModel


def test_a_query_takes_time(models):
    model = MeasuredModel(models / "student-ort")
    assert 0 < model.time(["my balance", "send money"]) < 10_000


def test_the_parts_of_a_query(models):
    """The session is run on what the tokenizer gives, once."""
    model = MeasuredModel(models / "student-ort")
    session, runs = model.classifier.session, []
    model.classifier.session = lambda *inputs: runs.append(inputs) or session(*inputs)
    tokenization, run = model.time_parts("my balance")
    assert tokenization > 0 and run > 0
    [(ids, mask)] = runs
    assert ids.tolist() == [[2, 4, 5, 3]] and mask.tolist() == [[1, 1, 1, 1]]
