"""Stage `evaluate`: models/<name> with its calibration, as calibrated/<name>, and its accuracy and size."""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from stages.core import processes, settings
from stages.core.errors import UserError, command


@command
def main(name: str):
    p = settings.load()
    import numpy as np

    from stages import checkpoints, runtime
    from stages.core import model_folder
    from stages.core.atomic import replacing, write_json
    from stages.data import tables
    from stages.measurement import identity
    from stages.measurement.quality import accuracy, calibration, size
    from stages.measurement.quality import logits as logits_of

    folder = model_folder.MODELS / name
    classifier = runtime.load(folder, threads=processes.cores())
    # Where a batch shares the scales of its activations, each query goes alone, as a single one is served.
    batch_size = 1 if model_folder.scales_by_batch(folder) else p.evaluate.batch_size
    out_of_scope = tables.read_labels().out_of_scope_id
    exits = checkpoints.read(folder).exits
    labels, logits, left = {}, {}, {}
    for split in ("validation", "test"):
        table = tables.read(split)
        labels[split] = table["label"].to_numpy()
        answers = logits_of.compute(classifier, table, batch_size, f"{name}, {split}")
        logits[split] = answers[0]
        left[split] = {"exits": accuracy.leaving(answers[1], exits)} if exits else {}
        if not np.isfinite(logits[split]).all():
            raise UserError(
                f"{folder} answers queries of {split} with logits that are not finite: its training has "
                "diverged; lower its learning_rate"
            )
    share = p.calibrate.out_of_scope_share
    if share is None:
        share = float((labels["validation"] == out_of_scope).mean())
    fitted = calibration.fit(
        logits["validation"], labels["validation"], out_of_scope, p.calibrate.scores, share
    )
    again = calibration.refit(logits["validation"], labels["validation"], fitted, p.calibrate.scores, share)
    with replacing(model_folder.CALIBRATED / name) as calibrated:
        shutil.copytree(folder, calibrated)
        sure = {"spread": calibration.spread(fitted, again)}
        write_json(calibrated / checkpoints.CALIBRATION, asdict(fitted) | sure)
        sizes = size.breakdown(calibrated)
        measured = {"model_sha256": identity.of_model(calibrated), "data_sha256": identity.of_data()}
    with replacing(Path("evaluations") / name) as scratch:
        scratch.mkdir()
        for split, values in logits.items():
            np.save(scratch / f"{split}.npy", values)
        measures = {
            split: accuracy.measure(logits[split], labels[split], out_of_scope, fitted, share) | left[split]
            for split in logits
        }
        measures["test"] |= accuracy.spread(logits["test"], labels["test"], fitted, again)
        write_json(scratch / "measured.json", measured)
        write_json(scratch / "accuracy.json", {"sizes": sizes, "out_of_scope_share": share, **measures})


if __name__ == "__main__":
    main(sys.argv[1])
