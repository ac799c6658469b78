"""Defines the tasks that a pruned encoder is trained and evaluated on, each in its own folder."""
