"""Many runs of the pipeline: searches, sweeps, and how two commits compare."""
