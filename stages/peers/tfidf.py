"""TF-IDF: words and characters, logistic regression; no transformer."""

from pathlib import Path

import numpy as np

from stages.peers.contract import Answers, Task

REQUIRES = ("scikit-learn==1.9.1",)
RECIPE = (
    "`TfidfVectorizer` over words (1 to 2) and over characters (`char_wb`, 2 to 5), each with `min_df=2` and "
    "`sublinear_tf`; `LogisticRegression(C=10)` on the training split."
)
FILE = "model.joblib"


def make(task: Task, folder: Path) -> None:
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    options = {"min_df": 2, "sublinear_tf": True, "dtype": np.float32}
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), **options),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **options),
    )
    model = make_pipeline(features, LogisticRegression(C=10, max_iter=1000))
    model.fit(task.texts, task.labels)
    joblib.dump(model, folder / FILE)


def load(folder: Path, threads: int) -> Answers:
    import joblib

    features, classifier = joblib.load(folder / FILE)
    return Answers(folder, lambda texts: (features.transform(texts),), in_all_classes(folder, classifier))


def in_all_classes(folder: Path, classifier):
    """The log probabilities of a scikit-learn `classifier`, float32, a column a label of `folder`.

    A label that it was not trained on gets the least that a float32 distinguishes from none.
    """
    from stages.core.model_folder import label_names

    labels, known = len(label_names(folder)), np.asarray(classifier.classes_, dtype=int)
    least = np.finfo(np.float32).tiny

    def session(features) -> np.ndarray:
        probabilities = np.full((features.shape[0], labels), least, dtype=np.float32)
        probabilities[:, known] = np.maximum(classifier.predict_proba(features), least)
        return np.log(probabilities)

    return session
