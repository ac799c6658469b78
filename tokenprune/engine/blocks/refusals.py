"""Why a model or a part of it has no adapter: what stands in the way, in words."""

from collections.abc import Sequence

from torch import nn

_PAIRS = "its attention adds a bias to every pair of grid positions (relative position bias), which adapters do not cut to the kept tokens"
_GRID = "its attention works in windows or decomposed axes of the whole grid, which kept tokens do not fill"
_TELLTALES = {  # names of parameters, modules and module classes, the first that is found speaks
    "WindowAttention": _GRID,
    "rel_pos_h": _GRID,
    "relative_position_bias_table": _PAIRS,
    "rel_pos": _PAIRS,
    "shared_rel_pos": _PAIRS,
}
_SIDE_BY_SIDE = "it runs attention and MLP side by side, and tokens cannot leave between the two"
_POST_NORM = "its norms come after attention and MLP (post-norm), and adapters know norms in front"
_CLASSES = {
    "ParallelScalingBlock": _SIDE_BY_SIDE,
    "DiffParallelScalingBlock": _SIDE_BY_SIDE,
    "ParallelThingsBlock": "it runs several attentions side by side, and adapters know one a block",
    "ResPostBlock": _POST_NORM,
    "EvaBlockPostNorm": _POST_NORM,
    "DiffAttention": "it subtracts one softmax from another, and adapters know attention with one",
}
_UNKNOWN = "there is no adapter for it"


def model_obstacle(model: nn.Module, known: Sequence[type[nn.Module]]) -> str:
    """Return why a model that is of no known class cannot be run."""
    names = {name.rsplit(".", 1)[-1] for name, _ in (*model.named_parameters(), *model.named_modules())}
    names |= {type(module).__name__ for module in model.modules()}
    reason = next((text for name, text in _TELLTALES.items() if name in names), _UNKNOWN)
    library = known[0].__module__.partition(".")[0]
    return f"it is a {_full(model)}, not a {library} {' or '.join(k.__name__ for k in known)}: {reason}"


def part_obstacle(what: str, part: nn.Module, known: Sequence[type[nn.Module]]) -> str | None:
    """Return why a part (`what` it is: block, attention, MLP) cannot be run; None if it is of a known class."""
    if type(part) in known:
        return None
    return f"its {what} is {_full(part)}: {_CLASSES.get(type(part).__name__, _UNKNOWN)}; known: {', '.join(k.__name__ for k in known)}"


def _full(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"
