"""Writes an imported file again: for this project with its settings in the header, or its encoder alone for timm."""

from pathlib import Path

from tokenprune.engine.model import pruned_of
from tokenprune.errors import CheckpointMismatch, InvalidConfig
from tokenprune.utils.checkpoints import save_weights
from tokenprune.zoo.layout import Imported
from tokenprune.zoo.load import SETTINGS_OF_ORIGIN, built, in_words, save

_ENDING = ".safetensors"


def to_tokenprune(imported: Imported, source: Path, out: Path) -> list[str]:
    """Write a file that `tokenprune.load` reads in one line; return lines that tell what was written.

    Args:
        imported: The imported file.
        source: The file that it is from.
        out: The new file.

    Raises:
        InvalidConfig: The new file is there already, or has another ending than .safetensors.
        CheckpointMismatch: The weights do not fit the model that the settings make.
    """
    _check_new(out)
    built(imported, source.name)
    save(out, imported, {"origin": source.name})
    return [f"wrote {out}: {len(imported.state)} tensors; tokenprune.load({str(out)!r}) is the model", *_left(imported)]


def to_timm(imported: Imported, source: Path, out: Path) -> list[str]:
    """Write the encoder, and the head of a classifier, in the keys of the timm model; return lines that tell what was written.

    Raises:
        InvalidConfig: The new file is there already, or has another ending than .safetensors.
        CheckpointMismatch: The weights do not fit the model that the settings make.
    """
    _check_new(out)
    pruned = pruned_of(built(imported, source.name))
    if pruned is None:
        raise CheckpointMismatch(f"{source.name} holds no Vision Transformer that timm knows")
    state = pruned.backbone.state_dict()
    save_weights(out, state, metadata={SETTINGS_OF_ORIGIN: in_words(imported), "origin": source.name})
    others = [key for key in pruned.state_dict() if not key.startswith("backbone.")]
    left = [f"left out: {len(others)} tensors of the method, which timm has no place for"] if others else []
    return [f"wrote {out}: {len(state)} tensors in timm's keys", *left, *_left(imported)]


def _left(imported: Imported) -> list[str]:
    return [f"left out of the file: {key}* ({reason})" for key, reason in imported.left_out.items()]


def _check_new(out: Path) -> None:
    if out.exists():
        raise InvalidConfig(f"{out} is there already; give --out another name, or remove it first")
    if out.suffix != _ENDING:
        raise InvalidConfig(f"{out.name} has the ending {out.suffix!r}; allowed: {_ENDING}, which holds the settings in its header")
