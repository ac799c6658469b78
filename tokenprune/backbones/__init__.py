"""Backbones: how a plain ViT is built, and everything that turns its tokens into feature maps."""
