"""What people would use instead of this pipeline, made from the same teacher or the same queries.

A peer is a module here: REQUIRES, the packages that it needs; RECIPE, what it does in Markdown; `make(task,
folder)`, which writes its model; `load(folder, threads)`, which gives a Classifier.

    olive, optimum         the teacher as ONNX in dynamic int8, served by our own runtime
    openvino               the teacher in static int8
    torchao                the teacher in torch's dynamic int8, compiled
    model2vec              a static model distilled from the teacher
    setfit                 the teacher's pretrained encoder, fine-tuned in contrast
    tfidf                  words and characters, a linear model

    contract               what a peer is given, and what it gives
    workshop               makes each peer's model in its environment
    worker                 runs in that environment
    timed                  a worker that answers queries, for the benchmark
"""

NAMES = ("olive", "optimum", "openvino", "torchao", "model2vec", "setfit", "tfidf")
