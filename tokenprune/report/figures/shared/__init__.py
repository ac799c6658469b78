"""Holds drawing code that several figures share; nothing here is a report."""
