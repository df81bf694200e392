"""What a model is worth: accuracy, size, latency."""
