"""What a model is worth: quality, which is repeatable, and speed, which is noisy."""
