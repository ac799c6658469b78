"""Files that the authors of methods published: entries as data, importers of their layouts, and what is done with them."""
