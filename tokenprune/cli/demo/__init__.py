"""Leads a newcomer to a picture, a table and a curve: `tokenprune demo`."""
