"""An intent classifier made small and fast, one declared stage at a time.

    download ── data/
    teacher ─── models/teacher                      a pretrained encoder, fine-tuned; others beside it
    logits ──── logits/<teacher>                    what each answers to queries and unlabelled text
    soft_labels soft_labels/                        the mean, which students learn from
    general ─── models/<name>                       a student of the pretrained encoder, without labels
    compress ── models/<name>                       one technique applied to one parent:
        distill      a smaller model taught by the teacher's logits
        prune        encoder weights set to zero
        structured   attention heads and feed-forward columns cut out
        vocabulary   unused pieces of words removed
        factorize    embeddings as the product of two narrow matrices
        qat          trained with the rounding of int8
        exits        heads after early layers, where sure queries leave
        export       an ONNX graph
        quantize     int8
        pack         zeros not stored
    evaluate ── calibrated/<name>, evaluations/<name>    threshold, accuracy, size
    benchmark ─ benchmark/                          latency of all models, side by side
    load_test ─ load_test/                          throughput, cores for a day's requests
    select ──── models/best                         the model to deploy
    report ──── metrics/<report>/                   tables and pictures, in Git
    explore ─── report.html                         the results as a page

The modules beside this file are what dvc.yaml runs. What they share:

    core           errors, whole outputs, model folders, settings
    data           sources of queries, splits, tables
    techniques     one file each: model folder in, model folder out; their settings
    training       the loop with its checkpoints, the losses of distillation, schedules
    checkpoints    how weights are written and read
    runtime        from a model folder to predictions
    measurement    quality (repeatable) and speed (noisy)
    reporting      tables and pictures
    page           the page that `intents explore` serves, a script each view
    serving        the HTTP service; traffic, load and the plan
    peers          what people would use instead, for `intents peers`
    commands       what a person runs: `intents predict`, `serve`, `compare`, …
"""
