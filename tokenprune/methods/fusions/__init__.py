"""Holds the fusions: learned modules behind the last block that turn live tokens into a map of all positions (Cropr Table 5)."""
