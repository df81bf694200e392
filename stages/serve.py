"""Stage `serve`: throughput and latency under load, step by step; the cores for a day; the HTTP service."""

import json
import os
from pathlib import Path

from stages import params
from stages.atomic import replacing
from stages.errors import UserError, command


@command
def main():
    p = params.load()
    from stages import model_folder, runtime
    from stages.intents import tables
    from stages.measurement import machine
    from stages.reporting import serving
    from stages.serving import capacity, load, soak, traffic

    queries = sorted(set(tables.read("test")["text"]))
    cores = len(os.sched_getaffinity(0))
    workers = p.serve.workers or cores
    if workers > cores:
        raise UserError(f"serve.workers is {workers}: there are {cores} cores, and each needs one of its own")
    folders = {name: model_folder.CALIBRATED / s.model for name, s in p.serve.scenarios.items()}
    exponent = traffic.exponent_for(len(queries), p.serve.cache, p.serve.hit_rate)
    drawn = traffic.draw(queries, exponent, 200_000, p.seed)
    times = load.run(folders, drawn, workers, p.serve, p.seed)
    loads = capacity.under_load(times, p.serve)
    plan = capacity.plan(times, loads, p.serve)

    folder = list(folders.values())[-1]
    classifier = runtime.load(folder)
    labels = {text: classifier.predict([text])[0].label for text in queries}
    requests = soak.mix(drawn, labels, p.serve.requests, p.seed)
    with soak.service(folder, "--workers", str(workers), "--cache", str(p.serve.cache)) as port:
        service = soak.run(port, requests, p.serve.clients, kill=True)

    found = {"workers": workers, "zipf_exponent": exponent, "delays_ms": capacity.delays(times)}
    described = machine.describe(threads=1) | found
    rows = json.loads(plan.round(4).to_json(orient="index"))
    texts = {
        "serving.json": json.dumps({**rows, "service": service, "machine": found}, indent=2) + "\n",
        "serving.csv": loads.to_csv(index=False, float_format="%.4f"),
        "serving.md": serving.markdown(plan, loads, service, p.serve, described),
    }
    for name, text in texts.items():
        with replacing(Path(p.report.folder) / name) as scratch:
            scratch.write_text(text)
    with replacing(Path(p.report.folder) / "serving.png") as scratch:
        serving.picture(plan, loads, p.serve, scratch)
    print(texts["serving.md"])


if __name__ == "__main__":
    main()
