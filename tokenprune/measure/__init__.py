"""Measures MACs, latency, throughput, memory, token usage, agreement of selectors and mIoU."""
