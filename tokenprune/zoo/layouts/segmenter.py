"""Imports Segmenter's own files (Strudel et al., ICCV 2021) with the linear decoder; those with the mask transformer are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.deit import backbone_of, classes_of, is_vit, under
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_ENCODER, _HEAD, _OURS = "encoder.", "decoder.head.", "pruned.backbone."
_EPS = 1e-5  # of all of its LayerNorms, torch's default
_VARIANT = "variant.yml"  # beside each published file: how the model was built and trained
_HALF = (0.5, 0.5, 0.5)
_UNUSED = ("head.", "head_dist.")  # of the encoder
_SAID = {"num_heads": "n_heads", "normalization": "normalization"}


@register("layout", "segmenter")
class SegmenterLinear(Layout):
    """Imports a ViT or a distilled DeiT whose tokens a linear layer labels; it becomes the model of our segmentation task.

    The distillation token is a register here, because no head reads it. `variant.yml` beside the file says the number of heads and the
    normalisation of pixels: ImageNet's mean and std for DeiT (`deit`), .5 for ViT (`vit`). Without it, the distillation token tells.
    """

    task = "segmentation"
    offers = {"num_heads": None, "normalization": None}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether there are a ViT under `encoder.` and a decoder of Segmenter's, linear or not."""
        return is_vit(_part(state, _ENCODER)) and any(key.startswith("decoder.") for key in state)

    def known(self, release: Release) -> dict[str, Any]:
        """Return what `variant.yml` beside the file says."""
        net = _variant(release.folder)
        return {name: net[key] for name, key in _SAID.items() if key in net}

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights.

        Raises:
            CheckpointMismatch: See `backbone_of`; or the decoder is a mask transformer, or `variant.yml` is of another model.
        """
        state, encoder = release.state, _part(release.state, _ENCODER)
        _refuse_others(release)
        distilled = "dist_token" in encoder
        heads = {} if given["num_heads"] is None else {"num_heads": given["num_heads"]}
        sizes = backbone_of({**encoder, "pos_embed": encoder["pos_embed"][:, int(distilled) :]}, release.name, **heads)
        classes = classes_of(state, release.name, _HEAD.rstrip("."))
        _compare(release, {"n_cls": classes, "patch_size": sizes["patch_size"], "d_model": sizes["embed_dim"], "n_layers": sizes["depth"]})
        own = {_OURS + key.replace("dist_token", "reg_token"): value for key, value in encoder.items() if not key.startswith(_UNUSED)}
        own |= under(f"{_OURS}head", _part(state, _HEAD))
        normalization = given["normalization"] or ("deit" if distilled else "vit")
        return Imported(
            settings={
                "task": {"name": self.task},
                "backbone": {**sizes, "registers": int(distilled), "norm_eps": _EPS, "final_norm_eps": _EPS},
            },
            state=own,
            classes=classes,
            view={} if normalization == "deit" else {"mean": _HALF, "std": _HALF},
            left_out={f"{_ENCODER}{name}": "the head of the pre-training" for name in _UNUSED if f"{name}weight" in encoder},
        )


def _refuse_others(release: Release) -> None:
    if f"{_HEAD}weight" not in release.state:
        held = sorted({key.split(".")[1] for key in release.state if key.startswith("decoder.")})
        raise CheckpointMismatch(
            f"checkpoint {release.name} is a Segmenter with the mask transformer (decoder.{', decoder.'.join(held)}): its class tokens run"
            " through blocks of a decoder, which this project does not have. Allowed: Segmenter with the linear decoder (`linear`)"
        )


def _part(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return the tensors whose keys begin with `start`, without it."""
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def _variant(folder: Path | None) -> dict[str, Any]:
    """Return `net_kwargs` of the `variant.yml` in a folder; {} where there is none."""
    path = None if folder is None else folder / _VARIANT
    if path is None or not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointMismatch(f"{_VARIANT} beside the checkpoint cannot be read ({error}); fetch it again, or remove it") from error
    net = content.get("net_kwargs") if isinstance(content, Mapping) else None
    return dict(net) if isinstance(net, Mapping) else {}


def _compare(release: Release, found: Mapping[str, int]) -> None:
    """Raise where `variant.yml` and the weights differ."""
    net = _variant(release.folder)
    if wrong := [f"{name} is {net[name]}, the weights have {value}" for name, value in found.items() if net.get(name, value) != value]:
        raise CheckpointMismatch(f"{_VARIANT} beside {release.name} is of another model ({'; '.join(wrong)}); put its own there, or none")
