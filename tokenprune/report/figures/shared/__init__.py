"""Drawing that several figures share; nothing here is a report."""
