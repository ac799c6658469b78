"""What a pruned encoder is trained and judged on: one task a module, detection in its own folder."""
