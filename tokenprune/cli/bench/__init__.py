"""Measures the engine's speed: `python -m tokenprune.bench` checks every goal on one CPU thread."""
