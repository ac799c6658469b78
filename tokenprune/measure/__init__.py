"""Measuring: MACs, latency, token usage."""
