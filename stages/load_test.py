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
    from stages.measurement import identity
    from stages.measurement.speed import machine
    from stages.serving import capacity, http_load, load, soak, traffic

    queries = sorted(set(tables.read("test")["text"]))
    cores = processes.cores()
    workers = p.load_test.workers or cores
    if workers > cores:
        raise UserError(
            f"load_test.workers is {workers}: there are {cores} cores, and each worker needs one of its own"
        )
    params = p.load_test
    exponent = traffic.exponent_for(len(queries), params.cache, params.hit_rate)
    hit_rate, as_asked = traffic.reached(len(queries), params.cache, exponent, params.hit_rate)
    left_out = [name for name, scenario in params.scenarios.items() if scenario.cached and not as_asked]
    kept = {name: scenario for name, scenario in params.scenarios.items() if name not in left_out}
    if not kept:
        raise UserError(
            f"load_test.scenarios has cached ones alone, and {len(queries)} test queries give a cache of "
            f"{params.cache} a hit rate of {hit_rate:.0%}: add a scenario, or set load_test.cache lower"
        )
    last = model_folder.CALIBRATED / list(params.scenarios.values())[-1].model
    params = params.model_copy(update={"scenarios": kept})
    folders = {name: model_folder.CALIBRATED / s.model for name, s in kept.items()}
    drawn = traffic.draw(queries, exponent, 200_000, p.seed)
    times = load.run(folders, drawn, workers, params, p.seed)
    loads = capacity.under_load(times, params)
    plan = capacity.plan(times, loads, params)
    rates = loads.set_index(["scenario", "load"])["offered"].to_dict()
    http_cores = len(http_load.shares()[0]) if http_load.served(kept) else 0
    if http_cores:
        http_times = http_load.run(folders, drawn, rates, params, p.seed)
        http_loads = capacity.under_load(http_times, params, http_cores)
        http_plan = capacity.http_plan(http_times, http_loads, loads, params, http_cores)

    classifier = runtime.load(last)
    labels = {text: classifier.predict([text])[0].label for text in queries}
    requests = soak.mix(drawn, labels, params.requests, p.seed)
    service = {}
    for name, options in soak.KINDS.items():
        options = [*options, "--processes", str(workers), "--cache", str(params.cache)]
        with soak.service(last, *options) as port:
            service[name] = soak.run(port, requests, params.clients, kill=True)

    traffic_facts = {
        "zipf_exponent": exponent,
        "test_queries": len(queries),
        "expected_hit_rate": hit_rate,
        "left_out": left_out,
        "delays_ms": capacity.delays(times),
    }
    with replacing("load_test") as scratch:
        scratch.mkdir()
        capacity.with_enough(loads).to_csv(scratch / "loads.csv", index=False, float_format="%.4f")
        plan.to_csv(scratch / "plan.csv", float_format="%.4f")
        if http_cores:
            http_table = capacity.with_enough(http_loads)
            http_table.to_csv(scratch / "http_loads.csv", index=False, float_format="%.4f")
            http_plan.to_csv(scratch / "http_plan.csv", float_format="%.4f")
        write_json(scratch / "service.json", service)
        models = {folder.name: identity.of_model(folder) for folder in (*folders.values(), last)}
        write_json(scratch / "measured.json", models)
        write_json(
            scratch / "machine.json",
            machine.describe(threads=1) | {"workers": workers, "http_cores": http_cores, **traffic_facts},
        )


if __name__ == "__main__":
    main()
