"""Checks and measures everything on one GPU: `tokenprune gpu --out results/gpu` writes tables, curves and one page."""
