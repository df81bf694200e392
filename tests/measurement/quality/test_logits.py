import numpy as np
import pandas as pd
import pytest

from stages import runtime
from stages.measurement.quality import logits

TEXTS = ["send money to my car", "my balance", "rent a car in w20", "w33 w44", "w50", "my car", "to w20 w21"]
TABLE = pd.DataFrame({"text": TEXTS}, index=[30, 10, 20, 5, 7, 9, 8])


@pytest.mark.parametrize("name", ["student", "student-ort"])
@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 1]), (50, [7]), (1, [1] * 7)])
def test_logits_are_the_rows(models, name, batch_size, sizes):
    classifier = runtime.load(models / name)
    alone = [classifier.logits([text])[0] for text in TEXTS]
    served, calls = classifier.answers, []
    classifier.answers = lambda texts: calls.append(texts) or served(texts)
    (values,) = logits.compute(classifier, TABLE, batch_size, name)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, alone, atol=1e-5)
    assert [len(texts) for texts in calls] == sizes
    lengths = [len(text) for texts in calls for text in texts]
    assert lengths == sorted(lengths)  # which leaves the least to pad
