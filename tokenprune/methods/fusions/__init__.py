"""Learned ways back from live tokens to a map of all positions (Cropr Table 5): what a treatment may have behind the last block."""
