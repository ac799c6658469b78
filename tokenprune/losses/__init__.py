"""Losses that selectors bring with them; tasks add their own."""
