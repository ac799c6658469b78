"""Why a model or a block has no adapter: what in it cannot do with a part of the tokens, in words."""

from collections.abc import Sequence

from torch import nn

_PAIRS = "its attention adds a bias to every pair of grid positions (relative position bias), which adapters do not cut to the kept tokens"
_GRID = "its attention works in windows or decomposed axes of the whole grid, which kept tokens do not fill"
_MODELS = {"relative_position_bias_table": _PAIRS, "rel_pos": _PAIRS, "rel_pos_bias": _PAIRS, "rel_pos_h": _GRID}
_WINDOWS = ("WindowAttention", "WindowMultiHeadAttention", "PartitionAttention")
_BLOCKS = {
    "ParallelScalingBlock": "it runs attention and MLP side by side, and tokens cannot leave between the two",
    "DiffParallelScalingBlock": "it runs attention and MLP side by side, and tokens cannot leave between the two",
    "ParallelThingsBlock": "it runs several attentions side by side, and adapters know one a block",
    "ResPostBlock": "its norms come after attention and MLP (post-norm), and adapters know norms in front",
    "EvaBlockPostNorm": "its norms come after attention and MLP (post-norm), and adapters know norms in front",
}


def model_obstacle(model: nn.Module, known: Sequence[type[nn.Module]]) -> str:
    """Return why a model that is none of the known classes cannot be run."""
    names = {part for name, _ in (*model.named_parameters(), *model.named_modules()) for part in name.split(".")[-1:]}
    reasons = [text for name, text in _MODELS.items() if name in names]
    if any(type(m).__name__ in _WINDOWS for m in model.modules()):
        reasons.insert(0, _GRID)
    reason = reasons[0] if reasons else "there is no adapter for its class"
    return f"it is not a timm {', '.join(k.__name__ for k in known)}; {reason}"


def block_obstacle(block: nn.Module, known: Sequence[type[nn.Module]]) -> str:
    """Return why a block that is none of the known classes cannot be run."""
    kind = type(block)
    reason = _BLOCKS.get(kind.__name__, "there is no adapter for it")
    return f"its block is {kind.__module__}.{kind.__name__}: {reason}; known: {', '.join(k.__name__ for k in known)}"
