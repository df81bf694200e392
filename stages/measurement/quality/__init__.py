"""Accuracy, calibration and size: the same inputs give the same numbers."""
