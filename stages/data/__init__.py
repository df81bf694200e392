"""Queries and the intents they express: sources, splits, the tables between stages."""
