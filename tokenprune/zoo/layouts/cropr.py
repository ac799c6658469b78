"""Imports the classifiers that Cropr's own training code writes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.deit import backbone_of, classes_of, is_vit
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_ROUTER = "cropr."
_PARTS = {  # of a router, by the start of its keys here
    "cross_attn.queries": "query",
    "cross_attn.mlp_norm.": "auxiliary.norm.",
    "cross_attn.mlp.": "auxiliary.mlp.",
    "head.norm.": "auxiliary.head.0.",
    "head.head.": "auxiliary.head.1.",
}
_ARGS = {"remove": "cropr_pruning_rate", "num_heads": "num_heads"}


@register("layout", "cropr")
class Cropr(Layout):
    """Imports a ViT with routers `cropr.i`, which act after block i: `selectors.{i+1}` here.

    One router less than blocks but one tells Last Layer Fusion. The first router drops one token more, which makes later lengths multiples
    of 8. A head with `fc_norm` reads the mean of all tokens, the class token included. Auxiliary heads come along, for further training.
    """

    asks = {"remove": "number R of tokens that each router drops (the paper's main results have 8)"}
    offers = {"num_heads": None}
    examples = {"remove": 8}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether there are routers beside a plain ViT."""
        return is_vit(state) and f"{_ROUTER}0.cross_attn.queries" in state

    def known(self, release: Release) -> dict[str, Any]:
        """Return what the arguments of the training run say."""
        return {name: release.args[arg] for name, arg in _ARGS.items() if release.args.get(arg) is not None}

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights.

        Raises:
            CheckpointMismatch: See `backbone_of`; or a router has parts that the paper's main results do not have, or there are too few.
        """
        state = release.state
        heads = {} if given["num_heads"] is None else {"num_heads": given["num_heads"]}
        whole = {"pool": "avg", "pool_includes_prefix": True} if "fc_norm.weight" in state else {}
        backbone, routers = backbone_of(state, release.name, **heads, **whole), _routers(state)
        fused = backbone["depth"] - 2
        if routers not in ({*range(fused)}, {*range(fused + 1)}):
            raise CheckpointMismatch(
                f"checkpoint {release.name} has {len(routers)} routers; allowed for {backbone['depth']} blocks: {fused} with Last Layer"
                f" Fusion, {fused + 1} without"
            )
        queries = state[f"{_ROUTER}0.cross_attn.queries"].shape[1]
        return Imported(
            settings={
                "task": {"name": self.task},
                "backbone": backbone,
                "selector": {"name": "cropr", **({} if queries == 1 else {"queries": queries}), **self._mlp(state)},
                "treatment": {"name": "last_layer_fusion" if len(routers) == fused else "remove"},
                "schedule": {"name": "per_block", "remove": given["remove"], "start": 1},
                "losses": {"auxiliary": {}},
            },
            state=dict(self._renamed(release.name, key, value) for key, value in state.items()),
            classes=classes_of(state, release.name),
        )

    @staticmethod
    def _mlp(state: Mapping[str, Tensor]) -> dict[str, bool]:
        """Return the option of routers without an MLP (Table 4c)."""
        return {} if f"{_ROUTER}0.cross_attn.mlp.fc1.weight" in state else {"mlp": False}

    @staticmethod
    def _renamed(name: str, key: str, value: Tensor) -> tuple[str, Tensor]:
        if not key.startswith(_ROUTER):
            return f"backbone.{key}", value
        _, number, part = key.split(".", 2)
        for start, own in _PARTS.items():
            if part.startswith(start):
                return f"selectors.{int(number) + 1}.{own}{part[len(start) :]}", value.squeeze(0) if own == "query" else value
        raise CheckpointMismatch(
            f"checkpoint {name} has {key}: a router with a norm or projections before its attention (Cropr's Table 4a) is not imported;"
            " allowed are routers of plain products, the default"
        )


def _routers(state: Mapping[str, Tensor]) -> set[int]:
    return {int(key.split(".")[1]) for key in state if key.startswith(_ROUTER)}
