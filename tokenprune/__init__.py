"""tokenprune: token reduction for Vision Transformers, compared fairly.

import timm, tokenprune
model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), selector="evit")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenprune.utils.threads import wait_briefly

wait_briefly()  # before torch is imported

from tokenprune.engine.compiling import compile  # noqa: A004, E402 as torch has it
from tokenprune.engine.model import PrunedViT  # noqa: E402
from tokenprune.engine.outputs import Outputs  # noqa: E402
from tokenprune.engine.schedule import Layout  # noqa: E402
from tokenprune.registry import names as list_plugins  # noqa: E402
from tokenprune.registry import register  # noqa: E402
from tokenprune.zoo.load import load  # noqa: E402
from tokenprune.zoo.prune import prune  # noqa: E402

if TYPE_CHECKING:
    from tokenprune.measure.facts import cost, kept, speed
    from tokenprune.report.show import show

__version__ = "0.1.0"
__all__ = [
    "Layout", "Outputs", "PrunedViT", "__version__", "compile", "cost", "kept", "list_plugins", "load", "prune", "register", "show",
    "speed",
]  # fmt: skip
# Imported when first used, so that `import tokenprune` stays light.
_LATER = {"cost": "measure.facts", "kept": "measure.facts", "speed": "measure.facts", "show": "report.show"}

# `python -m tokenprune.list` and its like find the commands, which live in cli/.
__path__.append(f"{__path__[0]}/cli")


def __getattr__(name: str) -> Any:
    """Return a function that most programs do not need, from the module that holds it.

    Raises:
        AttributeError: There is none of that name.
    """
    if name not in _LATER:
        raise AttributeError(f"module 'tokenprune' has no attribute {name!r}")
    return getattr(import_module(f"tokenprune.{_LATER[name]}"), name)
