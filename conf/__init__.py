"""The configuration groups, shipped as `tokenprune.conf`."""
