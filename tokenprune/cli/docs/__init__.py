"""The generated part of docs/: `python -m tokenprune.docs` writes methods.md and experiments.md from what is registered."""
