"""Benchmarks: is the engine as fast as it should be? `python -m tokenprune.bench` measures every goal on one CPU thread."""
