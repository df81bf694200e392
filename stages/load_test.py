"""Stage `load_test`: throughput and latency under load, the cores for a day, and the HTTP service."""

from stages.core import processes, settings
from stages.core.atomic import replacing, write_json
from stages.core.errors import UserError, command


@command
def main():
    p = settings.load()
    from stages import runtime
    from stages.core import model_folder
    from stages.data import tables
    from stages.measurement.speed import machine
    from stages.serving import capacity, load, soak, traffic

    queries = sorted(set(tables.read("test")["text"]))
    cores = processes.cores()
    workers = p.load_test.workers or cores
    if workers > cores:
        raise UserError(
            f"load_test.workers is {workers}: there are {cores} cores, and each worker needs one of its own"
        )
    folders = {name: model_folder.CALIBRATED / s.model for name, s in p.load_test.scenarios.items()}
    exponent = traffic.exponent_for(len(queries), p.load_test.cache, p.load_test.hit_rate)
    drawn = traffic.draw(queries, exponent, 200_000, p.seed)
    times = load.run(folders, drawn, workers, p.load_test, p.seed)
    loads = capacity.under_load(times, p.load_test)
    plan = capacity.plan(times, loads, p.load_test)

    folder = list(folders.values())[-1]
    classifier = runtime.load(folder)
    labels = {text: classifier.predict([text])[0].label for text in queries}
    requests = soak.mix(drawn, labels, p.load_test.requests, p.seed)
    with soak.service(folder, "--workers", str(workers), "--cache", str(p.load_test.cache)) as port:
        service = soak.run(port, requests, p.load_test.clients, kill=True)

    traffic_facts = {"zipf_exponent": exponent, "delays_ms": capacity.delays(times)}
    with replacing("load_test") as scratch:
        scratch.mkdir()
        loads.to_csv(scratch / "loads.csv", index=False, float_format="%.4f")
        plan.to_csv(scratch / "plan.csv", float_format="%.4f")
        write_json(scratch / "service.json", service)
        write_json(
            scratch / "machine.json", machine.describe(threads=1) | {"workers": workers, **traffic_facts}
        )


if __name__ == "__main__":
    main()
