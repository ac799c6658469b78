"""tokenprune: token reduction for Vision Transformers, compared fairly.

import timm, tokenprune
model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), selector="evit")
"""

from tokenprune.engine import PrunedViT
from tokenprune.outputs import Outputs
from tokenprune.pruning import prune
from tokenprune.registry import names as list_plugins
from tokenprune.registry import register
from tokenprune.schedules import Layout

__version__ = "0.1.0"
__all__ = ["Layout", "Outputs", "PrunedViT", "__version__", "list_plugins", "prune", "register"]
