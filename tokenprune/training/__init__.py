"""The training loop, its settings and learning rates."""
