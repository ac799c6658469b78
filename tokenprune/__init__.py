"""tokenprune: token reduction for Vision Transformers, compared fairly.

import timm, tokenprune
model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), selector="evit")
"""

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

__version__ = "0.1.0"
__all__ = ["Layout", "Outputs", "PrunedViT", "__version__", "compile", "list_plugins", "load", "prune", "register"]

# `python -m tokenprune.list` and its like find the commands, which live in cli/.
__path__.append(f"{__path__[0]}/cli")
