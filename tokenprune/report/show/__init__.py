"""Shows which tokens models keep of a picture, block by block."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.errors import InvalidConfig
from tokenprune.report.show.images import ALLOWED, pixels_of

if TYPE_CHECKING:
    from tokenprune.report.show.figure import TokenFigure


def show(
    model: PrunedViT | Mapping[str, PrunedViT],
    image: Any,
    *,
    dense: bool = True,
    blocks: Sequence[int] | None = None,
    names: Sequence[str] = (),
    title: str = "",
) -> "TokenFigure":
    """Return a Matplotlib figure of the tokens that a classifier keeps of a picture, block by block, with its best guesses and GMAC.

    A notebook shows it as a page with a slider; `savefig` writes it. Dropped patches are faded. Patches that were merged are outlined in
    the colour of their token.

    Args:
        model: A model of `tokenprune.prune` or `tokenprune.load`, or several by name.
        image: A path, a PIL image or an array (h,w,3) uint8, which are cropped and normalised as timm's configuration of the model says
            (ImageNet's if it has none); or a tensor (3,h,w) or (1,3,h,w) that is normalised already.
        dense: Whether the same weights with every token come first, for comparison.
        blocks: Blocks of the figure, from 0; None takes up to six. The page has all.
        names: Names of the classes; () takes ImageNet's for a head of 1000 outputs.
        title: Title; "" takes the name of the file.

    Raises:
        InvalidConfig: There is no model of a classifier, no picture, or no such block.
    """
    from tokenprune.report.show.figure import draw
    from tokenprune.report.show.shown import Entry, Shown
    from tokenprune.runs.subjects import about

    models = _models(model, dense)
    entries = []
    for label, one in models.items():
        entries.append(Entry(label, about(one), _looked(one, image, names), dense=not one.selectors))
    depth = max(one.depth for one in models.values())
    wrong = [block for block in blocks or () if not 0 <= block < depth]
    if wrong:
        raise InvalidConfig(f"show: blocks has {wrong[0]}; allowed: 0 to {depth - 1}")
    return draw(Shown(title or _name(image), tuple(entries)), blocks)


def _models(model: Any, dense: bool) -> dict[str, PrunedViT]:
    from tokenprune.runs.subjects import DENSE

    given = dict(model) if isinstance(model, Mapping) else {_label(model): model}
    wrong = [type(one).__name__ for one in given.values() if not isinstance(one, PrunedViT)]
    if wrong or not given:
        got = wrong[0] if wrong else "no model"
        raise InvalidConfig(
            f"show: got {got}; allowed: a model of tokenprune.prune, or several by name. A detector or a segmenter is shown by"
            " `tokenprune show IMAGE --model results/rows/KEY`"
        )
    first = next(iter(given.values()))
    add = dense and all(one.selectors for one in given.values())
    return {**({DENSE: prune(first.backbone)} if add else {}), **given}


def _label(model: Any) -> str:
    from tokenprune.runs.subjects import DENSE

    selectors = list(getattr(model, "selectors", {}).values())
    return selectors[0].name if selectors else DENSE


def _looked(model: PrunedViT, image: Any, names: Sequence[str]) -> Any:
    from tokenprune.runs.subjects import imagenet_names, look_of
    from tokenprune.tasks.classification.looking import looked, run_on
    from tokenprune.utils.modes import evaluating

    called = tuple(names) or (imagenet_names() if model.num_classes == len(imagenet_names()) else ())
    look = look_of(model, called)
    with evaluating(model):
        if not isinstance(image, Tensor):
            return looked(model, pixels_of(image), look)
        x = image if image.dim() == 4 else image.unsqueeze(0)
        if x.dim() != 4 or len(x) != 1 or x.shape[1] != 3 or not x.is_floating_point():
            raise InvalidConfig(f"show: the image is a tensor {tuple(image.shape)} of {image.dtype}; allowed: {ALLOWED}")
        return run_on(model, x, _shown_pixels(x, *look.statistics), called)


def _shown_pixels(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return a normalised image (1,3,h,w) as pixels (h,w,3) uint8."""
    centre, scale = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (mean, std))
    return (x[0].float() * scale + centre).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def _name(image: Any) -> str:
    return Path(image).name if isinstance(image, (str, Path)) else "the picture"
