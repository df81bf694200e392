"""Model2Vec: a vector for each token, distilled from the teacher, and a classifier over their mean."""

from pathlib import Path

from stages.peers.contract import Answers, Task
from stages.peers.tfidf import in_all_classes

REQUIRES = ("model2vec[distill,quantization,train]==0.10.0", "torch==2.13.0")
OWN_ENVIRONMENT = "it needs transformers below 5.4"
RECIPE = (
    "`model2vec.distill.distill` of the teacher (256 dimensions), then "
    "`StaticModelForClassification.fit` on the training split."
)


def make(task: Task, folder: Path) -> None:
    from model2vec.distill import distill
    from model2vec.train import StaticModelForClassification

    static = distill(model_name=task.teacher, pca_dims=256)
    classifier = StaticModelForClassification.from_static_model(model=static)
    classifier.fit(task.texts, [str(label) for label in task.labels])
    classifier.to_pipeline().save_pretrained(folder)


def load(folder: Path, threads: int) -> Answers:
    from model2vec.inference import StaticModelPipeline

    pipeline = StaticModelPipeline.from_pretrained(folder)
    return Answers(
        folder, lambda texts: (pipeline.model.encode(texts),), in_all_classes(folder, pipeline.head)
    )
