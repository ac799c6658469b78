"""Judges what the papers claim by the rows that are committed under experiments/."""
