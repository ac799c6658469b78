"""Small fakes of published files: random weights in the authors' keys, saved as their training scripts save."""

from argparse import Namespace
from pathlib import Path

import torch

from tokenprune.backbones.vit import build_vit

SIZES = {"img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 1}


def mae_state(classes: int = 5) -> dict[str, torch.Tensor]:
    """Return the weights of a small classifier in the keys of MAE's code."""
    torch.manual_seed(0)
    vit = build_vit({**SIZES, "pool": "avg"}, classes)
    return vit.state_dict()


def saved(path: Path, state: dict[str, torch.Tensor], **beside) -> Path:
    """Write a file as DeiT's training script does, with an optimizer and the arguments of the command line."""
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3, "args": Namespace(lr=0.1), **beside}, path)
    return path
