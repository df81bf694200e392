"""How many observations a number takes; of fewer it is not given."""

# Of fewer, the 95th percentile is just the largest, and each moves a share by more than 5 points.
FEWEST = 20
# Of fewer, not even the smallest and the largest enclose the median with 95% confidence: 1 - 2 / 2^rounds.
FEWEST_ROUNDS = 6
