"""Writes the generated part of docs/ from the registry: `python -m tokenprune.docs`."""
