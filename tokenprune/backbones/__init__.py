"""Builds plain ViTs, and the modules that turn their tokens into feature maps."""
