"""README.md of a report: every table and picture, and how they were measured."""

from stages.reporting import outliers

# The pictures of each section, and what they show.
PICTURES = {
    "Results": {
        "accuracy_latency": "Calibrated test accuracy against the mean latency of a test query. Area: size. "
        "The line joins the models that no other beats on both.",
        "steps": "What each step did, from BERT-base's shape to the model to deploy.",
    },
    "Calibration": {"calibration": "Above: reliability. Below: out-of-scope queries by threshold."},
    "Size": {"sizes": "Where the bytes are."},
    "Load test": {"load_test": "Throughput step by step, and latency under load."},
    "Pruning": {
        "pruning": "Validation accuracy against the fraction of encoder weights removed.",
        "sparsity": "The fraction of each encoder matrix that was removed.",
        "weights": "The encoder weights that are left.",
    },
    "Quantization": {"quantization": "What int8 rounds off the encoder's weights."},
    "Training": {"training": "Training loss and validation accuracy by epoch."},
}
METHOD = """Every model answers the same queries in one process, in rounds, in a random order within a
round. Speed-ups are ratios within a round, because a shared machine can be twice as slow a minute later.
The intervals cover noise within one run; two runs differ by more.
`bert-base-shape` has BERT-base's architecture and untrained weights, and is timed in the same rounds.
"""
TABLES = """| table | what |
|---|---|
| [results.csv](tables/results.csv) | all measures of each model; SHA-256 of the model and of the test split |
| [accuracy.csv](tables/accuracy.csv) | accuracy with intervals, and differences with p-values |
| [right.csv](tables/right.csv) | which test queries each model has right (`intents compare` reads it) |
| [domains.csv](tables/domains.csv) | accuracy in each domain |
| [intents.csv](tables/intents.csv) | F1 for each intent, and its test queries |
| [confusions.csv](tables/confusions.csv) | the most frequent mistakes of each model |
| [latency.csv](tables/latency.csv) | all measures of time and memory |
| [pruning.csv](tables/pruning.csv) | models with pruned weights: method, sparsity, accuracy |
| [training.csv](tables/training.csv) | every epoch of every training |
| [load_test.csv](tables/load_test.csv) | latency of each scenario at each load |
| [load_test_http.csv](tables/load_test_http.csv) | the same over HTTP |
| [load_test.json](tables/load_test.json) | the plans and the HTTP service |
| [machine.json](tables/machine.json) | CPU and versions |
| [selected.json](tables/selected.json) | the model to deploy, and why |
"""


def write(title: str, best: dict, sections: dict[str, str]) -> str:
    """The text, with the `sections`' tables in Markdown; `best` is the recipe of models/best."""
    choice = (
        f"The model to deploy is **{best['parent']}**, saved as `models/best`: {best['reason']}. "
        "No other model is better by both measures."
    )
    parts = [f"# Results: {title}", choice, "The stage `report` writes this folder. Do not edit it by hand."]
    for heading in dict.fromkeys([*sections, *PICTURES]):
        parts.append(f"## {heading}")
        for name, caption in PICTURES.get(heading, {}).items():
            parts += [f"![{caption}](pictures/{name}.png)", caption]
        if heading in sections:
            parts.append(sections[heading].strip())
        if heading == "Calibration" and (accounts := outliers.read()):
            parts += ["### Outliers", outliers.markdown(accounts).strip()]
        if heading == "Latency":
            parts.append(METHOD.strip())
    parts += ["## Tables", TABLES.strip()]
    return "\n\n".join(parts) + "\n"
