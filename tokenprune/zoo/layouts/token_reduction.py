"""Imports those of TokenReduction's models that have weights of their own: DPC-KNN, SiT, Sinkhorn, PatchMerger."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.arguments import PUBLISHED_BLOCKS, counts_of, of_run, said
from tokenprune.zoo.deit import backbone_of, classes_of, is_vit, positions_of
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_LAYER = "cluster_layers."
_OF_METHOD = {  # a key of the first layer, by method; its first dimension is the number of new tokens, but for DPC-KNN
    "dpc_knn": "score.weight",
    "sit": "weight.3.weight",
    "sinkhorn": "v",
    "patch_merger": "queries",
}
_PARTS = {"score.": "weigh.", "weight.": "weigh.", "v": "slots"}  # starts of keys of a layer that have another name here
_WITHOUT_NOISE = "DPC-KNN without the noise on densities that the released code draws anew in each pass"


@register("layout", "token_reduction")
class TokenReduction(Layout):
    """Imports a DeiT with `cluster_layers.k`, which act before the blocks of `reduction_loc`; `args` say the rest where they are there.

    DPC-KNN's code adds noise of 1e-6 to densities, drawn anew in each pass, so that its printed number does not repeat. It is left out;
    `noise` brings it back with a seed. Sinkhorn's code stores its vectors as unit vectors in each pass; here they are normalised for use.
    """

    asks = {"keep_rate": "share of tokens that stays, to the power of the stage (.9, .7, .5 or .25), or a list of counts"}
    offers = {"blocks": list(PUBLISHED_BLOCKS), "noise": False, "options": {}}
    examples = {"keep_rate": 0.7}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether there are cluster layers of a known method beside a plain ViT."""
        return is_vit(state) and _method(state) is not None

    def known(self, release: Release) -> dict[str, Any]:
        """Return what the arguments say; without any, the counts that the shapes of a mixing method tell."""
        found = {name: value for name, value in said(release.args).items() if name != "method"}
        method = _method(release.state)
        counts = {} if method == "dpc_knn" else {"keep_rate": _counts(release.state, method)}
        return {**counts, **found}

    def agree(self, name: str, given: Any, said: Any, release: Release) -> bool:
        """Tell whether two settings are equal; keep rates are if they lead to the same counts."""
        if name != "keep_rate" or given == said:
            return given == said
        backbone, blocks = backbone_of(release.state, release.name), self.known(release).get("blocks", PUBLISHED_BLOCKS)
        positions = positions_of(backbone)
        one, other = (counts_of(rate, blocks, positions) for rate in (given, said))
        return one == other

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights.

        Raises:
            CheckpointMismatch: See `backbone_of` and `refuse`; or the arguments are of another method, or the counts are not those of the
                weights.
        """
        state, method, blocks = release.state, _method(release.state), list(given["blocks"])
        backbone = backbone_of(state, release.name)
        positions = positions_of(backbone)
        self._check(release, method, counts_of(given["keep_rate"], blocks, positions), blocks)
        options = {**given["options"], **({"noise": given["noise"]} if method == "dpc_knn" else {})}
        return Imported(
            settings={
                "task": {"name": self.task},
                "backbone": backbone,
                **of_run(release.args, release.name, backbone, {**given, "method": method, "options": options}),
            },
            state={_renamed(key, blocks): value.reshape(()) if key.endswith(".scale") else value for key, value in state.items()},
            classes=classes_of(state, release.name),
            notes=() if method != "dpc_knn" or given["noise"] else (_WITHOUT_NOISE,),
        )

    @staticmethod
    def _check(release: Release, method: str | None, counts: Sequence[int], blocks: Sequence[int]) -> None:
        """Raise where settings do not fit the weights."""
        layers, trained = _layers(release.state), said(release.args).get("method", method)
        problems = [] if trained == method else [f"its arguments are of {trained}, its keys of {method}"]
        if len(blocks) != len(layers):
            problems.append(f"it has {len(layers)} cluster layers, blocks are {list(blocks)}: give blocks=[...], one a layer")
        elif method != "dpc_knn" and list(counts) != (made := _counts(release.state, method)):
            problems.append(f"its layers make {made} tokens, keep_rate would be {list(counts)}: leave keep_rate out")
        if problems:
            raise CheckpointMismatch(f"checkpoint {release.name} (layout token_reduction): {'; '.join(problems)}")


def _method(state: Mapping[str, Tensor]) -> str | None:
    return next((method for method, key in _OF_METHOD.items() if f"{_LAYER}0.{key}" in state), None)


def _layers(state: Mapping[str, Tensor]) -> list[int]:
    return sorted({int(key.split(".")[1]) for key in state if key.startswith(_LAYER)})


def _counts(state: Mapping[str, Tensor], method: str | None) -> list[int]:
    return [state[f"{_LAYER}{k}.{_OF_METHOD[method or '']}"].shape[0] for k in _layers(state)]


def _renamed(key: str, blocks: Sequence[int]) -> str:
    if not key.startswith(_LAYER):
        return f"backbone.{key}"
    _, number, part = key.split(".", 2)
    start = next((start for start in _PARTS if part.startswith(start)), "")
    return f"selectors.{blocks[int(number)]}.{_PARTS.get(start, '')}{part[len(start) :]}"
