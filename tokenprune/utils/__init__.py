"""Helpers that know nothing of tokens."""
