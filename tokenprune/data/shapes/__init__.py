"""Embedded pictures of shapes."""
