"""Holds helpers that do not depend on tokens or models."""
