"""Learned parts that a row judges as they were drawn, neither loaded nor trained: gates, routers, fusions, heads."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

MARK = "untrained: "  # begins the notes on such parts, which the screen shows beside the row's numbers
_ALSO = "which alone teaches the selector, is left out"
_SHARE = 0.5  # of a part's values; what is left as it was drawn by design (a mask token, say) is less


def drawn(model: Any, head: "Sequence[nn.Parameter]" = ()) -> "dict[str, list[tuple[nn.Parameter, Tensor]]]":
    """Return {part: [(parameter, its present values)]} of the parts that a new model draws at random, for `notes`.

    Args:
        model: A model of a task, before weights are loaded.
        head: The parameters of its head.
    """
    from tokenprune.engine.model import pruned_of

    parts: dict[str, list[nn.Parameter]] = {"the head": list(head)}
    pruned = pruned_of(model)
    if pruned is not None:
        for selector in pruned.selectors.values():
            parts.setdefault(f"selector {selector.name}", []).extend(selector.parameters())
        parts["the fusion of the treatment"] = [] if pruned.fusion is None else list(pruned.fusion.parameters())
    return {part: [(p, p.detach().clone()) for p in found] for part, found in parts.items() if found}


def notes(before: "Mapping[str, Sequence[tuple[nn.Parameter, Tensor]]]") -> list[str]:
    """Return a note for each part most of whose values are still those of `drawn`, after loading and training."""
    same = {part: sum(was.numel() for now, was in pairs if was.equal(now.detach().to(was.device))) for part, pairs in before.items()}
    total = {part: sum(was.numel() for _, was in pairs) for part, pairs in before.items()}
    return [
        f"{MARK}{same[part]} of {total[part]} values of {part} are random, neither loaded nor trained"
        for part in before
        if same[part] >= _SHARE * total[part]
    ]


def marks(row: Mapping[str, Any]) -> str:
    """Return what to print beside a row's numbers: the notes on parts that are untrained or have nothing to learn from; "" for none."""
    found = [note for note in row.get("notes", ()) if note.startswith(MARK) or _ALSO in note]
    return "; ".join(dict.fromkeys(found))
