"""From a configuration to a result row, and from many rows to a sweep."""
