"""Serving under load (traffic, load, capacity), and the service itself (service, workers, soak)."""
