"""An intent classifier made small and fast, one declared stage at a time.

    download ─ data/ ──┬─ teacher ── models/teacher, logits/train.npy
                       ├─ distill ── models/<name>   a smaller model taught by the teacher
                       │  prune ──── models/<name>   the same with weights set to zero
                       │  structured models/<name>   without some heads and feed-forward columns
                       │  vocabulary models/<name>   without unused WordPieces
                       │  qat ────── models/<name>   trained for int8's rounding
                       │  export ─── models/<name>   an ONNX graph
                       │  quantize   models/<name>   int8
                       │  pack ───── models/<name>   its zeros not stored
                       ├─ calibrate  calibrated/<name>   a model that knows what is out of scope
                       ├─ evaluate   evaluations/<name>.json   accuracy and size
                       │  benchmark  benchmark/      latency of all, side by side
                       │  serve ──── metrics/        throughput under load, cores for a day's requests
                       ├─ select ─── models/best     the one to deploy
                       └─ report ─── metrics/        tables and pictures

Each stage of dvc.yaml is the module of that name here, a thin script over `intents` (queries
and labels), `compression` (techniques: model folder in, model folder out), `runtime` (model
folder to predictions), `measurement`, `serving` and `reporting`. Commands beside them: `predict`,
`service`, `bundle` and `publish` of one model; `sweep`, `search`, `compare` and `seeds` of many runs, over
`experiments`.
"""
