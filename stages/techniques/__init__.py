"""Techniques, one file each: model folder in, model folder out."""
