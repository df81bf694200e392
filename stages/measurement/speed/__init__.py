"""Latency, start and memory: ratios within interleaved rounds, since machines are noisy."""
