"""Holds code that several selectors share."""
