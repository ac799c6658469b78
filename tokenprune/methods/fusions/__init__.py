"""Holds the fusions: learned modules behind the last block that turn live tokens into a map of all positions (Cropr Table 5)."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
