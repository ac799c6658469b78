"""Holds the methods: one file for each selector, treatment, schedule, loss and fusion."""
